"""Both lines of ArviZ give the same numbers and hold the same groups: run in every Python here that has one.

`PYRO_VAE_PYTHONS` may name further interpreters, separated by colons: one of Python 3.12 with ArviZ 1.x, say. They need
ArviZ, h5netcdf and lazy_loader, and no torch.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import json, sys
from pathlib import Path
import numpy as np
from pyro_vae.arviz_compat import container, psislw, rhat_and_ess, write_netcdf
rng = np.random.default_rng(0)
log_weights = 2 * rng.standard_normal((3, 500))
smoothed, khat = psislw(log_weights)
draws = rng.standard_normal((4, 300, 2))
draws[0, :, 1] += 3  # a chain that is elsewhere
rhat, ess = rhat_and_ess(draws)
groups = {
    "posterior": {"z": (("chain", "draw", "row"), draws)},
    "observed_data": {"x": (("row",), np.arange(2.0))},
}
held = container(groups, {"row": [7, 9], "chain": np.arange(4)}, {"measure": "counts"})
path = Path(sys.argv[1]) / "held.nc"
write_netcdf(held, path)
import xarray
back = xarray.open_dataset(path, group="posterior", engine="h5netcdf")
print(json.dumps({
    "khat": khat.tolist(), "total": np.exp(smoothed).sum(1).tolist(), "largest": smoothed.max(1).tolist(),
    "rhat": rhat.tolist(), "ess": ess.tolist(), "rows": back["row"].values.tolist(), "kind": type(held).__name__,
    "measure": back.attrs["measure"], "same": bool((back["z"].values == draws).all()),
    "files": [p.name for p in path.parent.iterdir()],
}))
"""


def pythons():
    named = [sys.executable, *filter(None, os.environ.get("PYRO_VAE_PYTHONS", "").split(":"))]
    return list(dict.fromkeys(path for name in named if (path := shutil.which(name))))


def found_by(python, folder):
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONWARNINGS": "ignore"}
    run = subprocess.run([python, "-c", CODE, str(folder)], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("python", pythons())
def test_numbers_and_containers(python, tmp_path):
    found = found_by(python, tmp_path)
    assert found["kind"] in ("InferenceData", "DataTree")
    assert found["khat"] == pytest.approx([0.5636, 0.3808, 0.5326], abs=0.3)
    assert found["total"] == pytest.approx([1.0, 1.0, 1.0], abs=1e-6)
    assert found["rhat"][0] == pytest.approx(1.0, abs=0.02)
    assert found["rhat"][1] > 1.2
    assert found["ess"][0] > 900 > 100 > found["ess"][1]
    assert found["rows"] == [7, 9]
    assert (found["measure"], found["same"], found["files"]) == ("counts", True, ["held.nc"])


def test_interpreters_agree(tmp_path):
    if len(pythons()) < 2:
        pytest.skip("one Python with ArviZ here; name another in PYRO_VAE_PYTHONS")
    first, *others = (found_by(python, tmp_path / str(i)) for i, python in enumerate(pythons()))
    for other in others:
        for name in ("khat", "largest", "rhat"):
            assert other[name] == pytest.approx(first[name], rel=0.02, abs=0.02)
