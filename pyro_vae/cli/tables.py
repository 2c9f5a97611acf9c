"""Records as tables for people."""

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from pyro_vae.evidence.psis import khat_limit


def print_record(record: dict[str, Any], title: str) -> None:
    """A record of `evidence.record` on stdout: each number with its kind and its errors."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2, 0, 0))
    for column in ("left", "right", "left"):
        table.add_column(justify=column)  # type: ignore[arg-type]
    errors = f"± {_number(record['log_px_se'])} (rows)  ± {_number(record['log_px_mc_se'], 3)} (Monte Carlo)"
    table.add_row("log p(x)", _number(record["log_px"]), f"{errors}  {record['log_px_kind']}, S = {record['num_samples']}")
    table.add_row("ELBO", _number(record["elbo"]), f"{_number(record['gap'])} below log p(x)")
    table.add_row("  reconstruction", _number(record["reconstruction"]), "E[log p(x|z)]")
    table.add_row("  KL", _number(record["kl"]), "KL(q(z|x) ‖ p(z))")
    bounds = [f"{_number(bound)} at S = {k}" for k, bound in record["iwae"].items() if int(k) not in (1, record["num_samples"])]
    if bounds:
        table.add_row("IWAE bounds", "", ", ".join(bounds))
    table.add_row("k-hat", *_khat(record))
    if record["active_units"] is not None:
        table.add_row("active units", str(record["active_units"]), "latent dimensions whose posterior mean varies over rows")
    table.add_row("", "", f"nats per row over {record['num_data']} rows; {record['measure']}")
    Console(soft_wrap=True).print(table)


def _khat(record: dict[str, Any]) -> tuple[str, str]:
    if record["khat_bad"] is None:
        return "–", "too few samples to say"
    bad = record["khat_bad"]
    advice = "" if bad < 0.1 else ": the guide misses part of these posteriors; more samples or a richer guide tighten the bound"
    return f"{bad:.0%}", f"of rows above {khat_limit(record['num_samples']):.2f}{advice}"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
