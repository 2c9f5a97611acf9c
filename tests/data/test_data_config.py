"""The data settings: their checks, and that reading them imports nothing large."""

import subprocess
import sys

import pytest

from pyro_vae.data import DataConfig
from pyro_vae.errors import InputError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"binarize": "sometimes"}, "binarize must be 'stochastic', 'fixed', 'threshold' or 'none', got 'sometimes'"),
        ({"missing": "keep"}, "missing must be 'auto', 'refuse' or 'mask', got 'keep'"),
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
