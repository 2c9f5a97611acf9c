"""Options, entries and registries: plain data that checks itself."""

import math
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch

from pyro_vae.data.data_config import DataConfig
from pyro_vae.errors import InputError
from pyro_vae.inference.objectives.objectives_by_name import OBJECTIVES, ObjectiveConfig
from pyro_vae.inference.svi.train_config import OPTIMIZERS, SCHEDULES, TrainConfig
from pyro_vae.option_registry import Entry, Registry, require_known
from pyro_vae.options import Option, options_of
from pyro_vae.registry import KINDS, ModelConfig
from pyro_vae.workflows.fit_settings import FitSettings, fit_options

REGISTRIES = [*KINDS.values(), OPTIMIZERS, SCHEDULES, OBJECTIVES]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (Option("rows", int, 1, "", minimum=0, exclusive=True), 0, "rows must be positive, got 0"),
        (Option("rows", int, 1, "", minimum=0), -1, "rows must be zero or more, got -1"),
        (Option("rows", int, 1, "", minimum=2), 1, "rows must be at least 2, got 1"),
        (Option("rows", int, 1, "", minimum=1, exclusive=True), 1, "rows must be more than 1, got 1"),
        (Option("share", float, 0.5, "", maximum=1), 1.5, "share must be at most 1, got 1.5"),
        (Option("rows", int, 1, ""), 1.5, "rows must be a whole number, got 1.5"),
        (Option("rows", int, 1, ""), "ten", "rows must be a number, got 'ten'"),
        (Option("rows", int, 1, ""), True, "rows must be a number, got True"),
        (Option("rows", int, 1, ""), None, "rows must be a number, got None"),
        (Option("rows", int, 0, ""), None, "rows must be a number, got None"),
        (Option("compile", bool, None, ""), "no", "compile must be true or false, got 'no'"),
        (Option("hidden", "widths", None, ""), 4, "hidden must be whole numbers of one or more"),
        (Option("rate", float, 1.0, "", minimum=0), math.nan, "rate must be finite, got nan"),
        (Option("rate", float, 1.0, "", minimum=0), math.inf, "rate must be finite, got inf"),
        (Option("rate", float, 1.0, "", minimum=0, exclusive=True), -math.inf, "rate must be finite, got -inf"),
        (Option("colour", str, "red", "", ("red", "blue")), "green", "colour must be 'red' or 'blue', got 'green'"),
        (Option("colour", str, "red", "", ("red", "blue")), None, "colour must be 'red' or 'blue', got None"),
    ],
)
def test_a_value_that_a_setting_cannot_have_is_an_error(option, value, message):
    with pytest.raises(InputError, match=message):
        option.check(value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (Option("rows", int, 1, "", minimum=0, exclusive=True), 1),
        (Option("rows", int, 1, "", minimum=0), 0),
        (Option("rate", float, 1.0, "", minimum=0), 1),
        (Option("rate", float, None, "", minimum=0), None),
        (Option("patience", int, 0, "", minimum=0, is_optional=True), None),
        (Option("rows", int, 1, ""), np.int64(3)),
        (Option("rate", float, 1.0, ""), np.float32(0.5)),
        (Option("colour", str, None, "", ("red", "blue")), None),
    ],
)
def test_a_value_that_a_setting_can_have_passes(option, value):
    option.check(value)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_entry_names_something_that_exists(registry):
    for name, entry in registry.items():
        assert entry.name == name
        assert callable(entry.load())


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_a_name_that_is_not_there_is_an_error_with_those_that_are(registry):
    with pytest.raises(InputError, match=f"no {registry.kind} called 'nothing'; try one of {next(iter(registry))}"):
        registry["nothing"]


def test_a_name_is_registered_once():
    registry = Registry("colour", [Entry("red", "builtins:dict")])
    with pytest.raises(InputError, match="there is a colour called 'red' already"):
        registry.register(Entry("red", "builtins:list"))
    registry.register(Entry("blue", "builtins:list"))
    assert list(registry) == ["red", "blue"]


def test_an_entry_point_of_another_package_is_an_entry(monkeypatch):
    point = EntryPoint("theirs", "shifted_prior:ENTRY", "pyro_vae.colours")
    monkeypatch.setattr(
        "pyro_vae.option_registry.entry_points", lambda group: [point] if group == "pyro_vae.colours" else []
    )
    registry = Registry("colour", [Entry("red", "builtins:list")], "pyro_vae.colours")
    assert list(registry) == ["red", "theirs"]
    assert registry["theirs"].load() is dict


def test_a_broken_package_is_left_out_with_a_warning_and_the_others_stay(monkeypatch):
    names = ["broken.module:ENTRY", "builtins:dict", "shifted_prior:ENTRY"]
    points = [EntryPoint("any", name, "pyro_vae.colours") for name in names]
    monkeypatch.setattr("pyro_vae.option_registry.entry_points", lambda group: points)
    registry = Registry("colour", [Entry("red", "builtins:list")], "pyro_vae.colours")
    with pytest.warns(UserWarning, match="was left out") as caught:
        assert list(registry) == ["red", "theirs"]
    assert [str(each.message).split(": ", 1)[1] for each in caught] == [
        "ModuleNotFoundError: No module named 'broken'",
        "it is no Entry",
    ]


def test_a_registry_is_a_mapping():
    registry = Registry("colour", [Entry("red", "builtins:list")])
    assert registry.get("blue") is None
    assert registry.get("red").path == "builtins:list"
    assert len({registry, registry}) == 1


@pytest.mark.parametrize(
    ("kind", "given", "plain"),
    [
        (int, np.int64(3), 3),
        (int, 10.0, 10),
        (int, torch.tensor(4), 4),
        (float, np.float32(0.5), 0.5),
        (float, 2, 2.0),
        (bool, np.True_, True),
        ("widths", [5, 3], (5, 3)),
    ],
)
def test_a_value_is_plain_after_the_check(kind, given, plain):
    value = Option("value", kind, None, "").check(given)
    assert value == plain
    assert type(value) is type(plain)


def test_the_nearest_setting_is_named():
    with pytest.raises(InputError, match="fit: no setting called 'epoch'; did you mean 'epochs'"):
        require_known(["epoch"], fit_options(), "fit")


@pytest.mark.parametrize("config", [TrainConfig, DataConfig, ModelConfig, ObjectiveConfig])
def test_every_setting_has_an_option_with_help_and_group(config):
    options = options_of(config)
    assert set(options) == {field.name for field in fields(config)} - {"options"}
    assert all(option.help and option.group for option in options.values())
    made = config()
    assert all(getattr(made, name) == option.default for name, option in options.items())


def test_defaults_of_a_fit_are_those_of_its_configurations():
    settings = FitSettings.from_options({})
    assert (settings.data, settings.training) == (DataConfig(), TrainConfig())
    assert settings.model == ModelConfig()
    assert settings.objective.loss == "elbo"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"components": 3}, "--components belongs to --prior mixture or --guide mixture"),
        ({"rank": 3}, "--rank belongs to --guide low-rank"),
        ({"rank": 3, "guide": "flow"}, "--rank belongs to --guide low-rank"),
        ({"hidden": (3,), "network": "linear"}, "--hidden belongs to --network mlp or"),
        ({"activation": "relu", "network": "gated-mlp"}, "--activation belongs to --network mlp or"),
        ({"dreg": True}, "--dreg belongs to --loss iwae"),
        ({"free_bits": 0.1, "loss": "iwae"}, "--free-bits belongs to --loss elbo"),
        ({"scale": 0.1, "likelihood": "bernoulli"}, "--scale belongs to --likelihood normal or"),
        ({"components": 0, "prior": "mixture"}, "components must be one or more, got 0"),
        ({"latent_dim": 0}, "latent_dim must be one or more, got 0"),
        ({"prior": "gamma"}, "no prior called 'gamma'"),
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"dtype": "float16"}, "dtype must be 'float32' or 'float64', got 'float16'"),
        ({"hidden": (0, -3)}, "hidden must be whole numbers of one or more"),
        ({"latent_dims": 3}, "did you mean 'latent_dim'"),
    ],
)
def test_settings_that_contradict_each_other_are_an_error(given, message):
    with pytest.raises(InputError, match=message):
        FitSettings.from_options(given)


def test_settings_are_read_without_torch():
    code = (
        "import sys; from pyro_vae.workflows.fit_settings import fit_options as f; f(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
