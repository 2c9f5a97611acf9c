"""What a type checker sees of a user's script: types for the calls of README, and an error for a wrong argument."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CODE = "".join(line[4:] + "\n" for line in README.splitlines() if line.startswith((">>> ", "... ")))
NOT_READ = (  # by the type checker: large, and in no type of what README calls
    "torch._dynamo", "torch._export", "torch._functorch", "torch._higher_order_ops", "torch._inductor", "torch._refs",
    "torch.ao", "torch.distributed", "torch.export", "torch.fx", "torch.jit", "torch.onnx", "torch.package",
    "torch.profiler", "torch.quantization", "torch.testing", "sympy", "matplotlib", "sklearn", "scipy",
    "pandas", "polars", "narwhals", "hypothesis", "arviz", "IPython", "jinja2", "PIL", "torchvision", "tensorboard",
)  # fmt: skip


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """The output of mypy on a script with README's calls, types revealed, and one wrong argument a line."""
    folder = tmp_path_factory.mktemp("script")
    lines = [
        *CODE.splitlines(),
        "reveal_type(data)",
        "reveal_type(fitted)",
        "reveal_type(fitted.history[0].elbo)",
        "reveal_type(found.log_px)",
        "reveal_type(vae.encode(data.test.x))",
        "reveal_type(pv.diagnostics.inference_gaps(vae, data.test))",
        'pv.fit(vae, data.train, epochs="ten")',
        "pv.fit(vae, data.train, epoch=10)",
        "pv.fit(vae, data.train, pv.TrainConfig(epochs=1), clip=[1])",
        "pv.log_evidence(42, data.test)",
        "pv.VAE(prior=1, likelihood=vae.likelihood, guide=vae.posterior)",
        "pv.latent_figures",
    ]
    (folder / "script.py").write_text("\n".join(lines) + "\n")
    unread = ",".join(f"{name}.*" for name in NOT_READ)
    settings = f"[mypy]\nignore_missing_imports = True\n[mypy-{unread}]\nfollow_imports = skip\n"
    (folder / "mypy.ini").write_text(settings)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(folder / "cache"), "script.py"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | {"MYPYPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "shown",
    [
        'Revealed type is "pyro_vae.data.dataset.Dataset"',
        'Revealed type is "pyro_vae.inference.fit_result.FitResult"',
        'Revealed type is "float | None"',
        'Revealed type is "torch._tensor.Tensor"',
        'Revealed type is "pyro_vae.diagnostics.gaps.Gaps"',
        'Argument "epochs" to "fit" has incompatible type "str"; expected "int"',
        'Unexpected keyword argument "epoch" for "fit"; did you mean "epochs"?',
        'Argument "clip" to "fit" has incompatible type "list[int]"; expected "float | None"',
        'Argument 1 to "log_evidence" has incompatible type "int"; expected "Program"',
        'Argument "prior" to "VAE" has incompatible type "int"; expected "Prior"',
        'Module has no attribute "latent_figures"',
    ],
)
def test_the_type_checker_says(shown, checked):
    assert shown in checked


def test_nothing_that_readme_calls_is_unknown(checked):
    assert not re.findall(r"Revealed type is \"Any\"", checked)
    wrong = [line for line in checked.splitlines() if "error:" in line]
    assert len(wrong) == 6
