"""Random settings: each goes to a configuration and back, or is refused by its name."""

import math

import pytest
import typecheck
from hypothesis import given
from hypothesis import strategies as st
from random_examples import attempt, examples

from pyro_vae.atomic_write import read_toml, write_toml
from pyro_vae.inference.svi.train_config import TrainConfig
from pyro_vae.options import MAX_COUNT, MAX_SEED, options_of
from pyro_vae.workflows.fit_settings import FitSettings, fit_options, flatten_config

OPTIONS = fit_options()
TRAINING = options_of(TrainConfig)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=8)
SIZES = st.integers(1, 64)
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.just(""), st.lists(st.integers(), max_size=3),
    st.dictionaries(WORDS, st.integers(), max_size=1), st.lists(WORDS, max_size=2), st.tuples(SIZES, SIZES),
)  # fmt: skip


def values_of(option):
    """A strategy for the values that an option may have."""
    if option.choices:
        values = st.sampled_from(tuple(option.choices))
    elif option.type is bool:
        values = st.booleans()
    elif option.type is int:
        low = -MAX_SEED if option.minimum is None else int(option.minimum) + option.exclusive
        values = st.integers(low, MAX_SEED if option.minimum is None else MAX_COUNT)
    elif option.type is float:
        values = st.floats(
            option.minimum, option.maximum, allow_nan=False, allow_infinity=False, exclude_min=option.exclusive
        )
    else:
        values = {
            "texts": st.lists(WORDS, max_size=2).map(tuple),
            "widths": st.lists(SIZES, min_size=1, max_size=3).map(tuple),
            "shape": st.tuples(SIZES, SIZES) | st.tuples(SIZES, SIZES, SIZES),
            "size": st.tuples(SIZES, SIZES),
            "scale": st.floats(0, 1e6, exclude_min=True) | st.sampled_from(["learned", "per-feature", "network"]),
        }.get(option.type, WORDS)
    return values | st.none() if option.default is None else values


@st.composite
def settings_of(draw, options, names=None):
    names = draw(st.lists(st.sampled_from(list(options)), unique=True, max_size=6)) if names is None else names
    return {name: draw(values_of(options[name])) for name in names}


@examples(30)
@given(settings_of(TRAINING, TRAINING))
def test_training_settings_keep_every_value_they_may_have(given):
    config = TrainConfig(**given)
    assert all(getattr(config, name) == value for name, value in given.items())
    rates = [config.rate(config.epochs * share) for share in (0.0, 0.3, 1.0)]
    assert all(math.isfinite(rate) and 0 <= rate <= config.learning_rate * (1 + 1e-9) for rate in rates)
    assert 0 <= config.epoch_seed(config.epochs - 1) < 2**32


@examples(60)
@given(st.sampled_from(list(TRAINING)), ANYTHING)
def test_another_value_is_refused_by_its_name_or_kept(name, value):
    config, refused = attempt(TrainConfig, **{name: value})
    assert name in refused if config is None else getattr(config, name) == value


@examples(20)
@given(settings_of(OPTIONS))
def test_settings_of_a_fit_come_back_from_their_file(folder, given):
    """Those that belong to another choice are refused by the option's name."""
    settings, refused = attempt(FitSettings.from_options, given)
    if settings is None:
        assert any(name in refused.replace("-", "_") for name in given)
        return
    path = folder / "config.toml"
    write_toml(path, settings.to_toml())
    again = from_config(read_toml(path))
    assert again == settings
    assert again.to_toml() == settings.to_toml()


def from_config(config):
    """The settings in the content of a configuration, as a resumed run takes them."""
    flat = flatten_config(config, OPTIONS, "config.toml")
    return FitSettings.from_options(
        {k: tuple(value) if isinstance(value, list) else value for k, value in flat.items()}
    )


@examples(60)
@given(st.sampled_from(list(OPTIONS)), ANYTHING)
def test_a_value_in_a_configuration_is_taken_or_refused_by_its_name(name, value):
    group = OPTIONS[name].group.lower()
    found, refused = attempt(from_config, {group: {name: value}})
    if found is None:
        assert name in refused.replace("-", "_")
        return
    kept = found.values[group][name]
    assert kept == (tuple(value) if isinstance(value, list) else value)
    assert found.to_toml() == FitSettings.from_options({name: kept}).to_toml()


@pytest.fixture(scope="module", autouse=True)
def _unchecked_types():
    """The package has to refuse wrong types by itself: annotations are checked in the tests only."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(typecheck, "CHECKED_CALLS", 0)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("settings")
