"""Random programs of registered parts go to a recipe and back; a changed recipe makes a program or is refused."""

import copy
from functools import cache

import numpy as np
import pandas
import pytest
import torch
import typecheck
from hypothesis import given
from hypothesis import strategies as st
from random_examples import attempt, examples

import pyro_vae as pv
from pyro_vae.atomic_write import read_toml, write_toml
from pyro_vae.registry import GUIDES, LIKELIHOODS, NETWORKS, PRIORS, ModelConfig
from pyro_vae.run_folder import CONFIG
from pyro_vae.serialization import from_recipe, to_recipe
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood

SIDE = 4
OWN = {
    "components": st.integers(2, 3),
    "pseudo_inputs": st.integers(1, 3),
    "flow_layers": st.integers(1, 2),
    "rank": st.integers(1, 2),
    "hidden": st.lists(st.integers(1, 6), min_size=1, max_size=2).map(tuple),
    "activation": st.sampled_from(["tanh", "relu", "softplus", "elu", "gelu", "silu"]),
    "scale": st.sampled_from(["learned", "per-feature", "network"]) | st.floats(0.01, 10),
}
ANYTHING = st.one_of(
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-3, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([{"make": "nets.mlp"}, {"same_as": "program.guide"}]),
)


@cache
def dataset_for(values):
    """Images of 4×4 pixels, or a table, for which a likelihood has a density."""
    generator = np.random.default_rng(0)
    if values == "columns":
        words = generator.choice(["a", "b", "c"], 20)
        return pv.load_data(pandas.DataFrame({"real": generator.normal(size=20), "word": words}))
    grey = generator.integers(0, 256, (20, SIDE, SIDE)).astype(np.uint8)
    if values in ("bits", "unit interval", "grey levels"):
        return pv.load_data(grey, binarize="fixed" if values == "bits" else "none")
    if values == "counts":
        return pv.load_data(generator.integers(0, 4, (20, SIDE**2)), standardize=False)
    return pv.load_data(generator.normal(size=(20, SIDE**2)), image_shape=(SIDE, SIDE))


@st.composite
def programs(draw):
    likelihood = draw(st.sampled_from(list(LIKELIHOODS)))
    data = dataset_for(LIKELIHOODS[likelihood].values)
    networks = [name for name, entry in NETWORKS.items() if data.image_shape or not entry.for_images]
    parts = {"prior": draw(st.sampled_from(list(PRIORS)))}
    guides = [name for name in GUIDES if (parts["prior"], name) != ("vamp", "iaf")]  # which is refused
    parts |= {"guide": draw(st.sampled_from(guides))}
    parts |= {"network": draw(st.sampled_from(networks)), "likelihood": likelihood}
    entries = PRIORS[parts["prior"]], GUIDES[parts["guide"]], NETWORKS[parts["network"]], LIKELIHOODS[likelihood]
    own = {option.name: draw(OWN[option.name]) for entry in entries for option in entry.options}
    config = ModelConfig.from_settings({"latent_dim": draw(st.integers(2, 3))} | parts | own)
    return build_vae(config, choose_likelihood(config, data), data, seed=draw(st.integers(0, 3))), data


def assert_equal_programs(ours, theirs, x):
    assert str(ours) == str(theirs)
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        z = ours.eval().posterior(x).sample()
        found = [densities(program.eval(), x, z) for program in (ours, theirs)]
    assert all(map(torch.equal, *found))


def densities(program, x, z):
    return program.prior().log_prob(z), program.likelihood(z).log_prob(x), program.posterior(x).log_prob(z)


@examples(6)
@given(programs())
def test_a_program_comes_back_from_its_recipe(folder, made):
    program, data = made
    recipe = to_recipe(program)
    write_toml(folder / "recipe.toml", {"program": recipe})
    read = read_toml(folder / "recipe.toml")["program"]
    rebuilt = from_recipe(read)
    assert to_recipe(rebuilt) == recipe == read
    assert_equal_programs(program, rebuilt, data.train.x[:3])


def places_of(recipe, before=()):
    """The paths of all values in a recipe."""
    items = recipe.items() if isinstance(recipe, dict) else enumerate(recipe) if isinstance(recipe, list) else ()
    for key, value in items:
        yield (*before, key)
        yield from places_of(value, (*before, key))


@examples(40)
@given(st.data())
def test_a_changed_recipe_makes_a_program_or_is_refused(saved, data):
    folder = data.draw(st.sampled_from(sorted(saved)))
    recipe = copy.deepcopy(saved[folder])
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from(list(places_of(recipe))))
        inner = recipe
        for key in path:
            inner = inner[key]
        action = data.draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "remove":
            del inner[last]
        elif action == "add" and isinstance(inner, dict):
            inner[data.draw(st.sampled_from(["scale", "net", "x", "make", "num_latents"]))] = data.draw(ANYTHING)
        else:
            inner[last] = data.draw(ANYTHING)
    write_toml(folder / CONFIG, {"program": recipe})
    program, refused = attempt(pv.load, folder)
    assert str(folder) in refused if program is None else isinstance(program, torch.nn.Module)


@pytest.fixture(scope="module")
def saved(folder):
    """Recipes of programs of all parts, by the folder with the weights."""
    likelihoods = dict(zip(LIKELIHOODS, [*PRIORS] * 2, strict=False))
    recipes = {}
    for number, (likelihood, prior) in enumerate(likelihoods.items()):
        data, guide = dataset_for(LIKELIHOODS[likelihood].values), list(GUIDES)[number % len(GUIDES)]
        network = list(NETWORKS)[number % len(NETWORKS)] if data.image_shape else "mlp"
        guide = "flow" if prior == "vamp" else guide
        parts = {"likelihood": likelihood, "prior": prior, "guide": guide, "network": network}
        if "hidden" in [option.name for option in NETWORKS[network].options]:
            parts |= {"hidden": (3,)}
        config = ModelConfig.from_settings({"latent_dim": 2} | parts)
        program = build_vae(config, choose_likelihood(config, data), data, seed=0)
        recipes[folder / likelihood] = to_recipe(program)
        pv.save(program, folder / likelihood)
    return recipes


@pytest.fixture(scope="module", autouse=True)
def _unchecked_types():
    """The package has to refuse wrong types by itself: annotations are checked in the tests only."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(typecheck, "CHECKED_CALLS", 0)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes")
