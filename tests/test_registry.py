"""Parts by name: what a registered part gets from the command line, a fit, a saved run and the help."""

import json
import sys

import click
import part_tables
import pytest
import torch
from click.testing import CliRunner

import pyro_vae as pv
from pyro_vae.cli.fit import fit as fit_command
from pyro_vae.cli.main import _run
from pyro_vae.constructor_args import CONSTRUCTORS
from pyro_vae.data.data_config import DataConfig
from pyro_vae.errors import InputError
from pyro_vae.option_registry import Entry
from pyro_vae.options import Option
from pyro_vae.registry import GUIDES, KINDS, LIKELIHOODS, NETWORKS, PRIORS, ModelConfig, model_options
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood, load_dataset
from pyro_vae.workflows.fit_run import fit_run

VALUES = {"bits": "digits", "unit interval": "digits", "grey levels": "digits", "reals": "two-moons"}


@pytest.fixture
def shifted():
    """A prior registered while the program runs: one class, one entry."""
    option = Option("shift", float, 1.5, "Where the mean of every latent is.", minimum=0, group="Model")
    PRIORS.register(Entry("shifted", "shifted_prior:ShiftedNormal", "a normal around a shift", (option,)))
    yield "shifted"
    del PRIORS._entries["shifted"]


def build(data=None, **settings):
    config = ModelConfig.from_settings({"latent_dim": 2, "hidden": (4,)} | settings)
    data = data or load_dataset(DataConfig(data="digits"), config.likelihood)
    return build_vae(config, choose_likelihood(config, data), data, seed=0)


@pytest.mark.usefixtures("without_figures")
def test_a_prior_registered_at_run_time_is_fitted_saved_and_loaded(shifted, tmp_path):
    done = fit_run(
        tmp_path / "run", data="two-moons", prior=shifted, shift=2.0, epochs=1, latent_dim=1, hidden=(4,), device="cpu"
    )
    assert type(done.program.prior).__name__ == "ShiftedNormal"
    loaded = pv.load(tmp_path / "run")
    assert loaded.prior.shift == 2.0
    assert torch.equal(loaded.encode(done.data.valid.x), done.program.encode(done.data.valid.x))
    assert 'prior = "shifted"' in (tmp_path / "run" / "config.toml").read_text()


def test_a_saved_run_imports_the_part_of_another_package(shifted, tmp_path, monkeypatch):
    """In a new process the module of the part is not imported yet; its entry says where it is."""
    pv.save(build(prior=shifted, shift=0.5), tmp_path)
    monkeypatch.delitem(CONSTRUCTORS, "shifted_prior.ShiftedNormal")
    monkeypatch.delitem(sys.modules, "shifted_prior")
    assert pv.load(tmp_path).prior.shift == 0.5


def test_the_command_line_has_a_prior_registered_at_run_time(shifted, tmp_path, capsys):
    shown = CliRunner().invoke(fit_command, ["--help"]).output
    assert "shifted: a normal around a" in " ".join(shown.split())
    assert "--shift FLOAT" in shown
    words = ["fit", "--data", "two-moons", "--prior", shifted, "--shift", "0.5", "--latent-dim", "1", "--epochs", "1"]
    assert _run([*words, "--hidden", "4", "--out", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "valid"
    assert pv.load(tmp_path / "run").prior.shift == 0.5
    assert _run(["fit", "--prior", shifted, "--shift", "-1"]) == 2
    assert "shift must be zero or more, got -1.0" in capsys.readouterr().err
    assert _run(["fit", "--shift", "1"]) == 2
    assert "--shift belongs to --prior shifted" in capsys.readouterr().err


def test_without_it_the_command_line_does_not_know_it():
    assert "--shift" not in CliRunner().invoke(fit_command, ["--help"]).output


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_is_built_by_its_name(name):
    assert build(prior=name).prior().event_shape == (2,)


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_every_guide_is_built_by_its_name(name, latent_dim):
    if latent_dim == 1 and name in ("flow", "iaf"):
        pytest.skip("a flow needs two dimensions")
    vae = build(guide=name, latent_dim=latent_dim)
    assert vae.encode(torch.zeros(3, 64)).shape == (3, latent_dim)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_built_by_its_name(name):
    hidden = {} if name == "linear" else {"hidden": (4,)}
    vae = build(network=name, **({"hidden": None} | hidden))
    assert vae.reconstruct(torch.zeros(3, 64)).shape == (3, 64)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_is_built_by_its_name(name, tmp_path):
    values = LIKELIHOODS[name].values
    if values == "columns":
        data = load_dataset(DataConfig(data="customers"), name)
    elif values == "counts":
        path = tmp_path / "counts.csv"
        rows = torch.randint(0, 5, (60, 3), generator=torch.Generator().manual_seed(0)).tolist()
        path.write_text("\n".join(["a,b,c", *(",".join(map(str, row)) for row in rows)]))
        data = load_dataset(DataConfig(data=str(path)), name)
    else:
        data = load_dataset(DataConfig(data=VALUES[values]), name)
    vae = build(data, likelihood=name)
    assert vae.likelihood(torch.zeros(4, 2)).log_prob(data.train.x[:4]).shape == (4,)


def test_the_options_of_the_help_are_those_that_the_entries_own():
    owned = {name for registry in KINDS.values() for name in registry.owned_options()}
    semi_supervised = {"semi_supervised", "classification_weight", "labelled_share"}
    assert set(model_options()) == owned | semi_supervised | {"latent_dim", *KINDS}
    words = model_options()
    assert words["components"].help == "Components of a mixture (prior mixture: 50; guide mixture: 4)."
    assert words["pseudo_inputs"].help == "Pseudo-inputs of a VampPrior (100)."


def test_a_name_of_no_part_is_refused_by_click_and_by_python():
    with pytest.raises(InputError, match="no prior called 'nothing'; try one of standard-normal"):
        ModelConfig(prior="nothing")
    with pytest.raises(click.BadParameter, match="'nothing' is not one of 'standard-normal'"):
        fit_command.make_context("fit", ["--prior", "nothing"])


@pytest.mark.parametrize(
    ("registry", "table"),
    [
        (PRIORS, part_tables.PRIORS),
        (LIKELIHOODS, part_tables.LIKELIHOODS),
        (GUIDES, part_tables.GUIDES),
        (NETWORKS, part_tables.NETS),
    ],
    ids=lambda registry: getattr(registry, "kind", ""),
)
def test_every_part_with_a_name_has_a_row_in_the_contract_tests(registry, table):
    assert set(registry) <= {name.partition(",")[0] for name in table}
