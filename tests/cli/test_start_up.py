"""What is imported before it is needed: nothing heavy, seen from fresh processes."""

import json
import os
import subprocess
import sys

import numpy as np

HEAVY = {"arviz", "h5py", "jinja2", "matplotlib", "mlxtend", "pandas", "PIL", "rich", "scipy", "sklearn", "xarray"}
HEAVY |= {"sympy", "tensorboard", "torchvision"}
STACK = {"numpy", "pyro", "torch"}
COMPILER = "torch._dynamo"
TELL = f"""
import json, sys
print(json.dumps(sorted({{name if name == {COMPILER!r} else name.partition('.')[0] for name in sys.modules}})))
"""


def imported_by(code, *arguments, **environment):
    """The packages that a fresh process had imported when it ended."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{TELL}", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_needs_nothing_but_click():
    code = """
import contextlib
from pyro_vae.cli.main import COMMANDS, main
for words in [], *([name] for name in COMMANDS):
    with contextlib.suppress(SystemExit):
        main([*words, "--help"])
"""
    assert not imported_by(code) & (HEAVY | STACK)


def test_the_package_loads_what_is_asked_for():
    assert not imported_by("import pyro_vae") & (HEAVY | STACK)
    pyros = imported_by("import pyro")
    assert not (imported_by("import pyro_vae as pv\npv.VAE, pv.fit, pv.load_data") - pyros) & HEAVY


def test_the_first_step_of_a_fit_waits_for_nothing_it_does_not_need(tmp_path):
    """The default fit as the command runs it, its data read before, stopped at its first optimizer step."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (5000, 784), dtype=np.uint8)
    np.savez(tmp_path / "mnist-5k-v1.npz", x=pixels, y=generator.integers(0, 10, 5000))
    code = """
import sys
from torch.optim.optimizer import register_optimizer_step_pre_hook
from pyro_vae.cli.main import cli
class FirstStep(BaseException):
    pass
def stop(*_):
    raise FirstStep
register_optimizer_step_pre_hook(stop)
try:
    cli.main(["fit", "--out", sys.argv[1]], standalone_mode=False)
except FirstStep:
    pass
else:
    sys.exit("the fit ended without a step")
"""
    found = imported_by(code, str(tmp_path / "run"), PYRO_VAE_CACHE=str(tmp_path))
    assert found >= STACK
    assert not (found - imported_by("import pyro")) & (HEAVY | {COMPILER})


def test_a_fit_of_a_table_imports_neither_the_compiler_nor_sklearn():
    code = """
import numpy as np, pyro_vae as pv
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood
from pyro_vae.workflows.fit_settings import FitSettings
data = pv.load_data(np.random.default_rng(0).normal(size=(60, 5)))
model = FitSettings.from_options({"prior": "mixture", "hidden": (4,)}).model
pv.fit(build_vae(model, choose_likelihood(model, data), data, 0), data, epochs=2)
"""
    assert not (imported_by(code) - imported_by("import pyro")) & (HEAVY | {COMPILER})
