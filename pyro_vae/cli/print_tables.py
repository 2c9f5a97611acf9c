"""Records as tables for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pyro_vae.cli.echo import echo
from pyro_vae.data.split import density_name
from pyro_vae.diagnostics.checks.model_check import ModelCheck
from pyro_vae.diagnostics.checks.verdicts import WORDS
from pyro_vae.evidence.evidence_record import EvidenceRecord
from pyro_vae.evidence.pareto_smoothing import khat_limit


@runtime_checkable
class ScoredRows(Protocol):
    """The rows of a table: a split, with its name and length."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...


@runtime_checkable
class Unrolled(Protocol):
    """A swiss roll that one kind of encoder has laid flat."""

    @property
    def kind(self) -> str: ...

    @property
    def flatness(self) -> float: ...

    @property
    def trust(self) -> float: ...

    @property
    def error(self) -> float: ...


def print_record(record: EvidenceRecord, title: str) -> None:
    """Print a record: each number with its kind and its errors.

    Args:
        record: the numbers of one split; records of version 0.1.0 name no method and are importance sampling's.
        title: the line above them.
    """
    iwae = record.iwae or {}
    bounds = [f"{_number(bound)} at S = {k}" for k, bound in iwae.items() if int(k) not in (1, record.num_samples)]
    also = ", y" * (density_name(record.measure) != density_name(None))
    errors = f"± {_number(record.log_px_se)} (rows) ± {_number(record.log_px_mc_se, 3)} (Monte Carlo)"
    rows = [
        (
            _log_px_name(record),
            "−∞" if record.num_zero else _number(record.log_px),
            errors,
        ),
        ("", "", f"{record.log_px_kind}, {_method(record)}"),
        ("ELBO", _number(record.elbo), f"{_number(record.gap)} below {density_name(record.measure)}"),
        ("  reconstruction", _number(record.reconstruction), f"E[log p(x|z{also})]"),
        ("  KL", _number(record.kl), f"KL(q(z|x{also}) ‖ p(z))"),
    ]
    if bounds:
        rows.append(("IWAE bounds", "", ", ".join(bounds)))
    if record.stages:
        numbers = ", ".join(f"{name} {number}" for name, number in record.stages.items())
        rows.append(("rows scored by", "", f"{numbers}; {record.densities:,.0f} densities a row"))
    if record.log_px_kind != "exact":
        rows.append(("k-hat", *_khat(record)))
    if record.log_px and record.log_px > 0 and (record.measure or "").startswith("counting"):
        rows.insert(2, ("", "", "above 0 by its Monte-Carlo error: no log-probability is above 0"))
    if record.outside_share:
        rows.append(("outside", f"{record.outside_share:.1%}", "of the guide's draws outside the prior's support"))
    if record.active_units is not None:
        rows.append(
            ("active units", str(record.active_units), "latent dimensions whose posterior mean varies over rows")
        )
    if record.accuracy is not None:
        rows.append(("accuracy", f"{record.accuracy:.1%}", "of the known labels, predicted by q(label | x)"))
    echo(f"\n{title}", bold=True)
    width = max(17, *(len(name) + 1 for name, _, _ in rows))
    for name, value, note in rows:
        echo(f"  {name:<{width}}{value:>10}  {note}".rstrip())
    known, zero = record.num_with_number, record.num_zero
    many = f"{record.num_data} rows" if known is None else f"the {known} of {record.num_data} rows with a number"
    zeros = f", {zero} of density zero" if zero else ""
    echo(f"  nats per row over {many}{zeros}{weighted_words(record.effective_rows)}; {record.measure}")


def weighted_words(effective_rows: float | None) -> str:
    """That a mean is weighted, and how many rows of equal weight have a mean with the same error; else empty."""
    return "" if effective_rows is None else f", weighted (as many as {effective_rows:,.0f} of equal weight)"


def _method(record: EvidenceRecord) -> str:
    """The method in words."""
    method = record.method or "is"
    draws = f"S = {record.num_samples} draws"
    if record.prior_share:
        draws += f", {record.prior_share:.0%} of them from the prior"
    if method == "ais":
        return f"by annealing; what follows is from {draws}"
    if method == "auto":
        return f"S = {record.num_samples} draws: around each row's modes, of the guide and the prior"
    return draws if method == "is" else f"by {method.removeprefix('exact: ')}; what follows is from {draws}"


def print_kl_by_latent(kl_by_site: Mapping[str, float | list[float]] | None) -> None:
    """Print the KL of each latent site, by dimension where they are known, the largest first."""
    for name, value in (kl_by_site or {}).items():
        numbers = sorted(value, reverse=True) if isinstance(value, list) else [value]
        shown = " ".join(f"{number:z.2f}" for number in numbers[:12]) + (" …" if len(numbers) > 12 else "")
        if len(numbers) > 1 or len(kl_by_site or {}) > 1:
            echo(f"  KL of {name:<11}          {shown}")


MAX_BAD_SHARE = 0.1  # of rows with a bad k-hat, above which a mean is a loose bound


def _log_px_name(record: EvidenceRecord) -> str:
    """What log p(x) is called: a density of codes is none of the table."""
    name = density_name(record.measure)
    if (record.measure or "").startswith("coded columns"):
        return name.replace("(x", "(codes", 1)
    return f"{name} at least" if _is_loose(record) else name


def _is_loose(record: EvidenceRecord) -> bool:
    """Whether log p(x) is a bound that its own k-hat calls loose."""
    drawn = record.method in (None, "is", "auto") and record.log_px_kind != "exact"
    return drawn and record.khat_bad is not None and record.khat_bad > MAX_BAD_SHARE


def _khat(record: EvidenceRecord) -> tuple[str, str]:
    bad, num_samples = record.khat_bad, record.num_samples
    if bad is None or num_samples is None:
        return "–", "too few draws for a k-hat"
    limit = f"of rows above {khat_limit(num_samples):.2f}"
    if not _is_loose(record):
        return f"{bad:.0%}", limit
    options = {"train": " --split train", "valid": " --split valid"}.get(record.split or "", "")
    method = "auto" if record.method != "auto" else "ais"
    return f"{bad:.0%}", f"{limit}: a loose bound, tighter by pyro-vae evaluate {record.run}{options} --method {method}"


def print_comparison(
    table: Sequence[Mapping[str, Any]], rows: ScoredRows, chosen: Mapping[str, str] | None = None
) -> None:
    """Print the records of `comparison.comparison_table`, best first.

    Args:
        table: a record for each program.
        rows: the rows that they were scored on.
        chosen: what cross-validation chose, by the name of the model, in words.
    """
    level = next((row["level"] for row in table if row["level"] is not None), None)
    head = ["", "log p(x)", "found by", "behind the best", "bound", "KL(q ‖ p(z|x))", "parameters", "seconds", ""]
    if level is not None:
        head[-1] = f"to {level:.2f}"
    body = [
        [
            row["name"],
            _number(row["log_px"]),
            _found_by(row),
            "" if not row["behind"] else f"{_number(row['behind'])} ± {_number(row['behind_se'])}",
            _number(row["bound"]),
            _number(row["gap"], 3),
            "–" if row["model_parameters"] is None else f"{row['model_parameters']:,}",
            _number(row["seconds"], 1),
            "" if level is None else _number(row["seconds_to_level"], 1),
        ]
        for row in table
    ]
    echo()
    _print_columns([head, *body])
    weighted = weighted_words(table[0]["effective_rows"])
    echo(f"\nNats per row over {len(rows)} {rows.name} rows{weighted}; {table[0]['measure']}.")
    for method in sorted({row["method"] for row in table} & set(ESTIMATORS)):
        bad = max((row["khat_bad"] or 0.0 for row in table if row["method"] == method), default=0.0)
        words = f"; k-hat above its limit in up to {bad:.0%} of rows" if bad else ""
        echo(f"{method}: {ESTIMATORS[method]}{words}")
    for name, words in (chosen or {}).items():
        echo(f"{name}: {words}, chosen by five-fold cross-validation on training rows")
    if level is not None:
        echo(f"The last column: seconds of the fit until held-out rows reached {level:.2f}; – never, or not measured.")


ESTIMATORS = {
    "auto": "importance sampling around each row's modes, from the guide and the prior",
    "laplace": "importance sampling around each row's mode",
    "is": "importance sampling from the guide",
}


def _found_by(row: Mapping[str, Any]) -> str:
    """How log p(x) was found: its kind, and the closed form, grid or estimator."""
    method = str(row["method"])
    return method if method.startswith("exact") else f"{row['log_px_kind']}, {method}"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


METRICS = {
    "reconstruction_error": ("Reconstruction error, per value", "lower is better", "{:.4f}"),
    "knn_accuracy": ("Accuracy of ten nearest neighbours, by label", "higher is better", "{:.1%}"),
    "precision": ("Decoded prior draws near a reconstruction (precision)", "higher: no gaps", "{:.1%}"),
    "coverage": ("Reconstructions near a decoded draw (coverage)", "higher: nothing left out", "{:.1%}"),
    "box_precision": ("Decoded uniform draws near a reconstruction", "higher: no gaps", "{:.1%}"),
    "nearest": ("Distance of a prior draw to the nearest code", "1: as between codes", "{:.2f}"),
    "path_ratio": ("Length of a decoded line over the distance of its ends", "1: straight", "{:.2f}"),
    "off_centre": ("Distance of the codes' mean from the origin", "in standard deviations", "{:.2f}"),
    "anisotropy": ("Anisotropy of the codes", "0: isotropic", "{:.2f}"),
    "area_gini": ("Gini coefficient of the labels' areas", "0: equal", "{:.2f}"),
}


def print_by_size(table: Sequence[Mapping[str, Any]], rows: ScoredRows, pixels: float | None) -> None:
    """Print a table for each metric of the encoders: a line for each number of latents, a column for each kind.

    Args:
        table: the means and errors of each kind and number of latents.
        rows: the rows that they were measured on.
        pixels: the accuracy of nearest neighbours on x itself, where rows have labels.
    """
    kinds = list(dict.fromkeys(line["kind"] for line in table))
    sizes = sorted({line["num_latents"] for line in table})
    cells = {(line["kind"], line["num_latents"]): line for line in table}
    for name, (title, meaning, form) in METRICS.items():
        known = [size for size in sizes if any(cells[kind, size][name] is not None for kind in kinds)]
        if not known:
            continue
        echo(f"\n{title}", bold=True, nl=False)
        echo(f"  ({meaning})")
        body = [[str(size), *(_with_error(cells[kind, size][name], form) for kind in kinds)] for size in known]
        _print_columns([["K", *kinds], *body], "  ")
        if name == "knn_accuracy" and pixels is not None:
            echo(f"  nearest neighbours on x itself: {pixels:.1%}")
    seeds = max(line["num_seeds"] for line in table)
    errors = f"; ± is the standard error over {seeds} fits" if seeds > 1 else ""
    echo(f"\nOn {len(rows):,} {rows.name} rows{errors}. No log p(x): only the VAE has one.")


def _with_error(value: tuple[float, float | None] | None, form: str) -> str:
    if value is None:
        return "–"
    mean, error = value
    return form.format(mean) + ("" if error is None else f" ± {form.format(error)}")


def print_rolls(rolls: Sequence[Unrolled]) -> None:
    """Print how flat each encoder makes the swiss roll."""
    echo("\nThe swiss roll in two dimensions", bold=True)
    head = ["", "flatness", "trust", "error"]
    body = [[one.kind, f"{one.flatness:.2f}", f"{one.trust:.2f}", f"{one.error:.3f}"] for one in rolls]
    _print_columns([head, *body], "  ")
    echo("  flatness: rank correlation of latent distances with those on the sheet; trust: that of its neighbours")


def _print_columns(lines: Sequence[Sequence[str]], indent: str = "") -> None:
    """Print lines in columns, the first aligned to the left, the head in bold."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for number, line in enumerate(lines):
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        echo(indent + "  ".join(cells).rstrip(), bold=number == 0)


def print_check(found: ModelCheck, title: str) -> None:
    """Print the verdicts of a check, those that matter first, and what to try.

    Args:
        found: the check.
        title: the line above them.
    """
    echo(title, bold=True)
    size = found.size
    echo(
        f"{size.num_replicates} replicates, {size.num_simulations} simulated rows with {size.num_draws} draws each, "
        f"log p(x) of {min(size.num_scored, found.num_rows)} rows by {size.num_samples} draws"
    )
    for verdict in found.by_level:
        p = "" if verdict.p_value is None else f"p = {verdict.p_value:.2g}"
        echo(f"\n{verdict.title}: {WORDS[verdict.level]}" + (f" ({p})" if p else ""), bold=verdict.level == "matters")
        echo(f"  {verdict.effect}")
        if verdict.advice:
            echo(f"  try: {verdict.advice}")


def print_rows(rows: Sequence[Mapping[str, object]]) -> None:
    """Print records of any kind: a column for each key that has a value, numbers to four digits."""
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    flat = {name: [_cell(row[name]) for row in rows] for name in names}
    lines = [[str(name).replace("_", " ") for name in names], *map(list, zip(*flat.values(), strict=True))]
    echo()
    _print_columns(lines)


def _cell(value: object) -> str:
    if isinstance(value, Mapping):  # a share and its standard error
        return f"{value['value']:.3f} ± {value['se']:.3f}"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def print_written(folder: Path, table: str, figures: Sequence[Path], seconds: float) -> None:
    """Print where the table and the figures are.

    Args:
        folder: the run's folder.
        table: the name of the table's file in it.
        figures: the figures' files.
        seconds: what the command took.
    """
    echo(f"\nWritten to {folder}/ in {seconds:.0f} s")
    echo(f"  {table}  " + "  ".join(str(path.relative_to(folder)) for path in figures))
