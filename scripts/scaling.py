"""How a fit scales with the number of processes, each pinned to one core with one thread.

For each number of processes it times whole training steps of `pyro_vae.fit` (784-500-20 by default, rows as floats in
memory), with the same total batch (strong scaling) and the same batch for each process (weak scaling), and
`all_reduce` of buffers of growing size; from these it plans an epoch of a billion rows. What a step spends in
`all_reduce` includes waiting for the slower process. Repetitions are interleaved and medians reported. With at most as
many processes as cores none shares a core; other load on the machine makes the numbers worse.

    python scripts/scaling.py [--processes 1,2] [--batch-size 512] [--steps 60] [--repeats 3] [--json FILE]
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import click

SIZES = [2**power for power in range(10, 26, 3)]  # floats in a buffer
SCALINGS = ("strong", "weak")


def timed(batch_size: int, steps: int, hidden: int) -> dict[str, float]:
    """Seconds a step in this process, by the clock and of the processor, and the parameters there are."""
    import torch

    import pyro_vae as pv
    from pyro_vae.distributed import ProcessGroup

    torch.manual_seed(0)
    rows = (torch.rand(batch_size * steps // 3, 784) < 0.3).float()
    guide = pv.guides.MeanFieldNormal(pv.nets.mlp(784, hidden, 40))
    vae = pv.VAE(pv.priors.StandardNormal(20), pv.likelihoods.Bernoulli(pv.nets.mlp(20, hidden, 784)), guide)
    reduced = 0.0
    all_reduce = ProcessGroup.all_reduce

    def timed_all_reduce(group: ProcessGroup, tensor: torch.Tensor) -> None:
        nonlocal reduced
        began = time.perf_counter()
        all_reduce(group, tensor)
        reduced += time.perf_counter() - began

    ends: list[tuple[float, float, float]] = []

    def note(_: Any) -> None:
        ends.append((time.perf_counter(), time.process_time(), reduced))

    # on_epoch is called on rank 0 only; all processes are in step
    with patch.object(ProcessGroup, "all_reduce", timed_all_reduce):
        pv.fit(vae, rows, epochs=4, batch_size=batch_size, schedule="constant", on_epoch=note, progress="none")
    if not ends:
        return {}
    names = ("step", "processor", "all-reduce")
    passed = zip(names, ends[0], ends[-1], strict=True)  # the first epoch warms up
    found = {name: (after - before) / (3 * (steps // 3)) for name, before, after in passed}
    return found | {"parameters": float(sum(value.numel() for value in vae.parameters()))}


def reductions() -> dict[int, float]:
    """Seconds of an all-reduce, by the number of floats."""
    import torch

    from pyro_vae.distributed import process_group

    group, found = process_group(), {}
    for size in SIZES:
        buffer, times = torch.zeros(size), []
        for _ in range(12):
            group.all_gather(None)  # all start at the same time
            began = time.perf_counter()
            group.all_reduce(buffer)
            times.append(time.perf_counter() - began)
        found[size] = statistics.median(times[2:])
    return found


def child(path: str, batch_size: int, steps: int, hidden: int) -> None:
    """Run one process, on its own core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    from pyro_vae.distributed import process_group

    size = int(os.environ["WORLD_SIZE"])
    found: dict[str, Any] = {
        "strong": timed(batch_size, steps, hidden),
        "weak": timed(batch_size * size, steps, hidden),
        "reductions": reductions() if size > 1 else {},
    }
    if size == 1:
        found["half"] = timed(batch_size // 2, steps, hidden)
    if process_group().is_main:
        Path(path).write_text(json.dumps(found), encoding="utf-8")
    sys.stderr.flush()
    os._exit(0)  # Gloo's threads sometimes abort a process when the interpreter exits


def run(size: int, batch_size: int, steps: int, hidden: int) -> dict[str, Any]:
    """The measurements of `size` processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        words = [sys.executable, __file__, "--child", str(path)]
        words += ["--batch-size", str(batch_size), "--steps", str(steps), "--hidden", str(hidden)]
        common = os.environ | {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        common |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environments = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
        started = [subprocess.Popen(words, env=environment) for environment in environments]
        codes = [process.wait() for process in started]
        if any(codes):
            raise click.ClickException(f"a process of {size} failed")
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found


def medians(found: list[Any]) -> Any:
    """The same nested dictionary with the median of each number."""
    if isinstance(found[0], dict):
        return {key: medians([one[key] for one in found]) for key in found[0]}
    return statistics.median(found)


def summary(runs: dict[int, Any], batch_size: int) -> list[dict[str, Any]]:
    """One row for each scaling and number of processes; efficiency: rows a second per process, relative to one."""
    lines = []
    for way in SCALINGS:
        for size, found in runs.items():
            rows = batch_size * (size if way == "weak" else 1)
            alone = batch_size / runs[1][way]["step"]
            rate = rows / found[way]["step"]
            lines.append(
                {
                    "way": way,
                    "processes": size,
                    "batch": rows,
                    "rows_per_second": rate,
                    "efficiency": rate / size / alone,
                }
                | found[way]
            )
    return lines


def plan(runs: dict[int, Any], batch_size: int, num_rows: float) -> list[dict[str, float]]:
    """An epoch of `num_rows` rows, planned by t = a + c b + 8 P (n − 1) / (n w) with b rows for each process."""
    alone, largest = runs[1], max(runs)
    whole, half = alone["strong"]["step"], alone["half"]["step"]
    row = (whole - half) / (batch_size - batch_size // 2)
    fixed = max(0.0, whole - row * batch_size)
    floats, seconds = max((int(floats), seconds) for floats, seconds in runs[largest]["reductions"].items())
    bandwidth = 8 * floats * (largest - 1) / largest / seconds
    lines = []
    for n in (1, 8, 64, 512):
        for b in (512, 4096):
            reduce = 8 * alone["strong"]["parameters"] * (n - 1) / n / bandwidth
            step = fixed + row * b + reduce
            lines.append(
                {"processes": n, "rows_each": b, "step": step, "all-reduce": reduce, "rows_per_second": n * b / step}
                | {"epoch_hours": num_rows / (n * b) * step / 3600, "input_bytes_per_second": 784 * n * b / step}
            )
    return lines


def print_plan(lines: list[dict[str, float]], num_rows: float) -> None:
    click.echo(f"\nplanned from these measurements, {num_rows:.0e} rows of 784 bytes (without network latency):")
    click.echo("processes  rows each    ms/step  in all-reduce      rows/s  hours/epoch  input MB/s")
    for line in lines:
        click.echo(
            f"{line['processes']:9}  {line['rows_each']:9}  {1e3 * line['step']:9.1f}  {1e3 * line['all-reduce']:13.2f}"
            f"  {line['rows_per_second']:10.0f}  {line['epoch_hours']:11.2f}"
            f"  {line['input_bytes_per_second'] / 1e6:10.1f}"
        )


def print_table(lines: list[dict[str, Any]], runs: dict[int, Any]) -> None:
    click.echo("scaling  processes    batch    ms/step  in all-reduce    rows/s  efficiency")
    for line in lines:
        click.echo(
            f"{line['way']:7}  {line['processes']:9}  {line['batch']:7}  {1e3 * line['step']:9.2f}"
            f"  {1e3 * line['all-reduce']:13.2f}  {line['rows_per_second']:8.0f}  {line['efficiency']:10.2f}"
        )
    for size, found in runs.items():
        for floats, seconds in found["reductions"].items():
            sent = 4 * int(floats) * 2 * (size - 1) / size
            click.echo(
                f"all-reduce of {4 * int(floats) / 1e6:8.2f} MB by {size}: {1e3 * seconds:8.2f} ms, "
                f"{sent / seconds / 1e9:5.2f} GB/s sent by each"
            )


def listed(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    return sorted({1, *(int(size) for size in value.split(","))})


@click.command()
@click.option("--processes", default="1,2", callback=listed, show_default=True)
@click.option("--batch-size", default=512, show_default=True)
@click.option("--hidden", default=500, show_default=True)
@click.option("--steps", default=60, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--plan", "num_rows", default=1e9, show_default=True, help="Rows to plan an epoch of.")
@click.option("--json", "path", type=click.Path(path_type=Path))
@click.option("--child", "child_path", hidden=True)
def main(
    processes: list[int],
    batch_size: int,
    hidden: int,
    steps: int,
    repeats: int,
    num_rows: float,
    path: Path | None,
    child_path: str | None,
) -> None:
    """Time a fit by one process and by several, each on one core."""
    if child_path is not None:
        child(child_path, batch_size, steps, hidden)
        return
    if max(processes) > (cores := len(os.sched_getaffinity(0))):
        click.echo(
            f"{max(processes)} processes on {cores} cores: cores are shared, and efficiency is not meaningful", err=True
        )
    found: dict[int, list[Any]] = {size: [] for size in processes}
    for _ in range(repeats):
        for size in processes:
            found[size].append(run(size, batch_size, steps, hidden))
    runs = {size: medians(repeated) for size, repeated in found.items()}
    lines = summary(runs, batch_size)
    print_table(lines, runs)
    planned = plan(runs, batch_size, num_rows) if len(runs) > 1 else []
    print_plan(planned, num_rows)
    if path is not None:
        found_here = {"batch_size": batch_size, "scaling": lines, "plan": planned, "runs": runs}
        path.write_text(json.dumps(found_here, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
