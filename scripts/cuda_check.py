"""Fits and evidence on CUDA beside the CPU: milliseconds a step, memory, and whether the numbers are equal.

    python scripts/cuda_check.py                                   # where CUDA is; about five minutes
    python scripts/cuda_check.py --device cpu --rows 400 --hidden 8 --epochs 2 --num-samples 500    # its logic

Pictures are drawn at random: nothing is downloaded, and times do not depend on pixels. Prints one table, then each
comparison with its limit, and exits with 1 where one is beyond it.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import click
import torch
from torch import Tensor

import pyro_vae as pv
from pyro_vae.data import Dataset
from pyro_vae.options import Value
from pyro_vae.workflows.build_vae import build_vae
from pyro_vae.workflows.choose_likelihood import choose_likelihood
from pyro_vae.workflows.fit_settings import FitSettings

PROGRAMS: dict[str, dict[str, Value]] = {
    "plain": {},
    "flow guide": {"guide": "flow"},
    "convolutional": {"network": "conv"},
}
FORMS: dict[str, bool | None] = {"handlers": False, "captured graph": None}  # the setting `compile` of a fit
SIDE, LATENT_DIM = 28, 20
RELATIVE, ABSOLUTE = 1e-4, 1e-3  # of log-densities in float32 against float64, the second in nats per row
SAME_FIT = 1e-3  # of the ELBO of the first epoch, between two forms of a step with the same random numbers
MOST_ERRORS = 5.0  # between two estimates of log p(x), in Monte-Carlo standard errors


@dataclass(frozen=True)
class Cell:
    """A fit of one program in one form: median milliseconds a step, rows a second, peak memory, the first ELBO."""

    program: str
    form: str
    milliseconds: float
    rows_per_second: float
    peak_mib: float | None
    first_elbo: float

    def __str__(self) -> str:
        peak = "–" if self.peak_mib is None else f"{self.peak_mib:,.0f}"
        return (
            f"| {self.program} | {self.form} | {self.milliseconds:.3f} | {self.rows_per_second:,.0f} | {peak} "
            f"| {self.first_elbo:.3f} |"
        )


@dataclass(frozen=True)
class Comparison:
    """Two numbers that have to be equal, up to a limit."""

    name: str
    difference: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.limit  # NaN does not

    def __str__(self) -> str:
        return f"{'equal' if self.holds else 'DIFFERENT'}: {self.name}: {self.difference:.2e} (limit {self.limit:.2e})"


@dataclass(frozen=True)
class Check:
    """What is run where: the device, rows, sizes and draws."""

    device: str
    rows: int
    hidden: int
    batch_size: int
    epochs: int
    num_samples: int

    def data(self) -> Dataset:
        """Pictures of random grey levels, a fifth of them ink."""
        g = torch.Generator().manual_seed(0)
        grey = torch.randint(0, 256, (self.rows + self.rows // 4, SIDE, SIDE), generator=g, dtype=torch.uint8)
        ink = torch.rand(grey.shape, generator=g) < 0.2
        return pv.load_data((grey * ink).numpy(), binarize="fixed")

    def program(self, options: dict[str, Value], data: Dataset) -> pv.VAE:
        hidden = {} if options.get("network") == "conv" else {"hidden": (self.hidden,)}
        model = FitSettings.from_options({"latent_dim": LATENT_DIM, **hidden, **options}).model
        return build_vae(model, choose_likelihood(model, data), data, seed=0)

    def fit(self, program: str, form: str, data: Dataset) -> Cell:
        """Time the epochs of a fit after the first, in which the graph is captured."""
        vae, times = self.program(PROGRAMS[program], data), [time.perf_counter()]
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

        def on_epoch(history: object) -> None:
            self.synchronize()
            times.append(time.perf_counter())

        fitted = pv.fit(
            vae,
            data.train,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=0,
            compile=FORMS[form],
            device=self.device,
            progress="none",
            on_epoch=on_epoch,
        )
        seconds = median(end - start for start, end in pairwise(times[1:]))
        steps = math.ceil(len(data.train) / self.batch_size)
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else None
        first = float(fitted.history[0]["elbo"])
        return Cell(program, form, 1e3 * seconds / steps, len(data.train) / seconds, peak, first)

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def densities(self, program: str, data: Dataset) -> Comparison:
        """log p(x, z) and log q(z|x) of some rows on the device against float64 on the CPU, at the same z."""
        vae, x = self.program(PROGRAMS[program], data), data.valid.x[:200]
        with torch.no_grad():
            z = vae.posterior(x).sample()
            found = [each.cpu().double() for each in _log_densities(vae.to(self.device), x, z, self.device)]
            exact = _log_densities(vae.to("cpu").double(), x.double(), z.double(), "cpu")
        excess = [
            ((a - b).abs() / (ABSOLUTE + RELATIVE * b.abs())).max().item() for a, b in zip(found, exact, strict=True)
        ]
        return Comparison(f"{program}, densities against float64, in tolerances", max(excess), 1.0)

    def evidence(self, data: Dataset) -> tuple[str, Comparison]:
        """log p(x) on the device beside the CPU's, with the same weights: a line of the table, and their difference."""
        vae = self.program({"latent_dim": 2}, data)  # with few latents the Monte-Carlo errors are to be trusted
        x = data.valid.x[: min(500, len(data.valid))]
        on_cpu = pv.log_evidence(vae, x, self.num_samples, seed=0)
        vae.to(self.device)
        pv.log_evidence(vae, x.to(self.device), self.num_samples, seed=1)  # the first call captures
        self.synchronize()
        start = time.perf_counter()
        there = pv.log_evidence(vae, x.to(self.device), self.num_samples, seed=1)
        self.synchronize()
        seconds = time.perf_counter() - start
        gap = (there.log_px.cpu() - on_cpu.log_px.cpu()).mean().abs().item()
        errors = math.hypot(on_cpu.log_px_mc_se, there.log_px_mc_se)
        rate = len(x) * self.num_samples / seconds
        form = f"evidence, {len(x)} rows × {self.num_samples} draws"
        line = f"| plain, 2 latents | {form} | {1e3 * seconds:.1f} | {rate:,.0f} | – | – |"
        return line, Comparison("evidence beside the CPU's, in standard errors", gap / errors, MOST_ERRORS)


def _log_densities(vae: pv.VAE, x: Tensor, z: Tensor, device: str) -> tuple[Tensor, Tensor]:
    x, z = x.to(device), z.to(device)
    joint = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)
    return joint, vae.posterior(x).log_prob(z)


def comparisons(check: Check, show: Callable[[str], None]) -> Iterator[Comparison]:
    """Run everything, the table shown as it comes."""
    data = check.data()
    show("| program | form | ms | rows or draws per second | peak MiB | ELBO of the first epoch |")
    show("|---|---|---:|---:|---:|---:|")
    found: list[Comparison] = []
    for program in PROGRAMS:
        cells = {form: check.fit(program, form, data) for form in FORMS}
        for cell in cells.values():
            show(str(cell))
        one, other = (cells[form].first_elbo for form in FORMS)
        found.append(
            Comparison(f"{program}, captured graph beside handlers", abs(one - other), SAME_FIT * max(1.0, abs(one)))
        )
        found.append(check.densities(program, data))
    line, compared = check.evidence(data)
    show(line)
    yield from [*found, compared]


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--rows", default=60_000, help="Training rows.")
@click.option("--hidden", default=500)
@click.option("--batch-size", default=100)
@click.option("--epochs", default=4, help="Of each fit; the first is not timed.")
@click.option("--num-samples", default=5_000, help="Draws for each of 500 rows, of the evidence.")
def main(device: str, rows: int, hidden: int, batch_size: int, epochs: int, num_samples: int) -> None:
    """Print the table and the comparisons; exit with 1 where numbers differ, with 2 where there is no device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("no CUDA here; --device cpu runs the same on the processor")
    if epochs < 2:
        raise click.UsageError("the first epoch is not timed: give two or more (--epochs 4)")
    name = torch.cuda.get_device_name() if device == "cuda" else "processor"
    click.echo(f"torch {torch.__version__}, {name}, batch {batch_size}\n")
    checked = list(comparisons(Check(device, rows, hidden, batch_size, epochs, num_samples), click.echo))
    click.echo()
    for each in checked:
        click.echo(str(each))
    if not all(each.holds for each in checked):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
