"""The data settings: their checks, and that reading them imports nothing large."""

import subprocess
import sys

import pytest

import pyro_vae as pv
from pyro_vae.data import DataConfig
from pyro_vae.errors import InputError
from pyro_vae.options import options_of
from pyro_vae.workflows import choose_likelihood


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"binarize": "sometimes"}, "binarize must be 'stochastic', 'fixed', 'threshold' or 'none', got 'sometimes'"),
        ({"missing": "keep"}, "missing must be 'auto', 'refuse' or 'mask', got 'keep'"),
        ({"image_shape": (0, 3)}, r"image_shape must be \[channels,\] height and width, .* got \(0, 3\)"),
        ({"resize": (4, 0)}, r"resize must be height and width, whole numbers of one or more, got \(4, 0\)"),
    ],
)
def test_a_data_setting_that_cannot_be_used_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**settings)


def test_the_settings_and_the_names_of_data_sets_import_neither_torch_nor_numpy():
    code = (
        "import sys, pyro_vae.data, pyro_vae.data.data_config; print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "set()"


def test_every_data_setting_reaches_the_reader(monkeypatch):
    given = {}

    def load_data(name, **options):
        given.update(options, data=name)
        return pv.load_data("digits")

    monkeypatch.setattr(choose_likelihood, "load_data", load_data)
    choose_likelihood.load_dataset(DataConfig(header="no", gray=True, resize=(3, 4), image_shape=(3, 4), data="x"))
    renamed = {"data_root": "root", "column": "columns"}
    assert given.keys() == {renamed.get(name, name) for name in options_of(DataConfig)}
    assert [given[name] for name in ("header", "gray", "resize", "image_shape")] == ["no", True, (3, 4), (3, 4)]
