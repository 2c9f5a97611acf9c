"""What a fit logs: what it is about to do, its warnings, and why it was interrupted."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from pyro_vae.data import Dataset
from pyro_vae.distributed import ProcessGroup
from pyro_vae.errors import CollapseWarning, HandlersWarning, PrecisionWarning
from pyro_vae.option_registry import Entry
from pyro_vae.options import Value
from pyro_vae.programs.find_plates import find_plates
from pyro_vae.programs.row_batches import describe_measure
from pyro_vae.programs.row_inputs import probe_batch
from pyro_vae.registry import KINDS, ModelConfig
from pyro_vae.typing import Program
from pyro_vae.workflows.choose_likelihood import LikelihoodChoice

Log = Callable[[str], None]
DOMINATED_BY, MIN_ROWS, NAMED_ROWS = 10.0, 10, 5  # nats; rows


def describe_fit(
    model: ModelConfig, data: Dataset, program: Program, likelihood: LikelihoodChoice | None, own: str | None
) -> str:
    """Lines on the rows, the likelihood and why it was chosen, the measure and the parts.

    Args:
        model: the names of the parts.
        data: the data set.
        program: the program.
        likelihood: the choice of the likelihood; None for a user's program.
        own: what `--program` says, for a user's program.

    Returns:
        The lines.
    """
    rows = f"{len(data.train)} training, {len(data.valid)} validation and {len(data.test)} test rows"
    if data.check is not None:
        rows += f", {len(data.check)} set aside for pyro-vae check,"
    labels = f", labels from {data.label_name!r}" if data.label_name else ""
    lines = [f"{data.name}: {rows} of {data.num_features} columns{labels}"]
    lines += [f"  {line}" for line in data.schema.describe()] if data.schema.modelled else []
    lines += [f"read: {note}" for note in data.notes]
    measure = describe_measure(data.train, find_plates(program, probe_batch(data)))
    if likelihood is None:
        return "\n".join([*lines, f"program {own}; {measure}"])
    scale = "" if likelihood.scale is None else f" with scale {likelihood.scale}"
    options = _given_options(model, KINDS["likelihood"][likelihood.name], leave_out="scale")
    lines.append(f"likelihood {likelihood.name}{scale}{options}: {likelihood.reason}; {measure}")
    parts = [f"{kind} {_part(model, kind)}" for kind in ("prior", "guide", "network")]
    lines.append(", ".join([*parts, f"K = {model.latent_dim}"]))
    return "\n".join(lines)


def _part(model: ModelConfig, kind: str) -> str:
    """The name of a part, with the options that were given for it."""
    entry = model.parts()[kind]
    return f"{entry.name}{_given_options(model, entry)}"


def _given_options(model: ModelConfig, entry: Entry, leave_out: str = "") -> str:
    """The options of a part that were given, in parentheses."""
    given = {option.flag[2:]: model.options.get(option.name) for option in entry.options if option.name != leave_out}
    words = [f"{name} {_shown(value)}" for name, value in given.items() if value is not None and value is not False]
    return f" ({', '.join(words)})" if words else ""


def _shown(value: Value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@contextmanager
def warnings_to_log(log: Log) -> Iterator[None]:
    """Inside, this package's warnings are single lines of the log; its advice on collapse is in the result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        notes = (HandlersWarning, PrecisionWarning)
        for category in notes:
            warnings.filterwarnings("always", category=category)
        show_others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
            if issubclass(category, notes):
                log(f"note: {message}")
            else:
                show_others(message, category, *where, **options)

        warnings.showwarning = show
        yield


def reason_of_interruption(error: BaseException, group: ProcessGroup) -> str:
    """How a fit was interrupted, in words.

    Args:
        error: what interrupted it.
        group: the processes of the fit.

    Returns:
        The beginning of a sentence.
    """
    if not isinstance(error, KeyboardInterrupt):
        return "stopped, since another process of this run has ended,"
    return "interrupted" if group.is_single else "interrupted, or told to end because another process of this run did,"


def dominating_rows(log_px: Tensor, names: Sequence[object]) -> str:
    """Which few rows pull a mean of log p(x) down by more than ten nats.

    Args:
        log_px: log p(x) (n,), nats.
        names: what the rows are called (n).

    Returns:
        A sentence; empty where a hundredth of the rows, at least one, pulls it down by less.
    """
    found = log_px.isfinite().nonzero()[:, 0]
    few = max(1, len(found) // 100)
    if len(found) < MIN_ROWS:
        return ""
    ordered = found[log_px[found].argsort()]
    with_all, without = float(log_px[found].mean()), float(log_px[ordered[few:]].mean())
    if without - with_all <= DOMINATED_BY:
        return ""
    said = ", ".join(f"{names[row]} ({float(log_px[row]):,.0f})" for row in ordered[:few].tolist()[:NAMED_ROWS])
    return (
        f"{few} of {len(found)} validation rows pull the mean log p(x) from {without:,.2f} to {with_all:,.2f} nats: "
        f"look at row {said}; a likelihood with heavier tails (student-t) bears them better"
    )
