"""The numbers of an evaluation in words: each with its kind and a sentence on what it means."""

from dataclasses import dataclass

from pyro_vae.data.split import density_name
from pyro_vae.evidence.evidence_record import EvidenceRecord
from pyro_vae.evidence.pareto_smoothing import khat_limit

KINDS = {
    "exact": "This is the exact value.",
    "lower bound": "This is a lower bound: the true value lies higher, on average.",
    "upper bound": "This is an upper bound: the true value lies lower, on average.",
    "estimate": "This is an estimate, which may lie on either side of the true value.",
}
MEANINGS = {
    "log p(x)": "How probable the model finds a row: the natural logarithm of p(x), averaged over {many} rows. Higher "
    "is better; one nat more is 2.7 times as probable. {kind}",
    "error over rows": "How far the average may be off because {many} rows stand for all; more rows make it smaller.",
    "Monte-Carlo error": "How far it may be off because random draws of z stand for all z; more draws make it smaller.",
    "ELBO": "The objective of training, a lower bound on log p(x). Its gap is the KL divergence of the guide from "
    "the true posterior.",
    "reconstruction": "The ELBO's first term: how well a row is explained by latents that were drawn for it.",
    "KL": "The ELBO's second term, which is subtracted: how much information the latents have about a row. Near zero "
    "they have none.",
    "IWAE bounds": "The bound from several draws of z. Its rise with their number shows how loose the ELBO is.",
    "k-hat too high": "The share of rows whose importance weights a few draws dominate. Their log p(x) is likely "
    "too low; a richer guide or more draws improve it.",
    "active units": "Latent dimensions whose posterior mean varies over rows. The others are inactive: the posterior "
    "has collapsed there.",
}


@dataclass(frozen=True)
class Number:
    """A number on the page: its `name`, `value` and `spread` as text, and a sentence on its meaning."""

    name: str
    value: str
    spread: str
    meaning: str


def numbers(record: EvidenceRecord) -> list[Number]:
    """What an evaluation found, each number with a sentence for newcomers; what does not exist is left out."""
    S, kind = record.num_samples, record.log_px_kind or ""
    density = density_name(record.measure)
    below = "" if record.gap is None else f"{number(record.gap)} below {density}"
    table: list[tuple[str, str, str | None, str]] = [
        ("log p(x)", "", _text(record.log_px), kind if density == density_name(None) else f"{kind}, {density}"),
        ("error over rows", "± ", _text(record.log_px_se), ""),
        ("Monte-Carlo error", "± ", _text(record.log_px_mc_se, 3), ""),
        ("ELBO", "", _text(record.elbo), below),
        ("reconstruction", "", _text(record.reconstruction), "E[log p(x | z)]"),
        ("KL", "", _text(record.kl), "KL(q(z | x) ‖ p(z))"),
    ]
    if bounds := {int(k): bound for k, bound in (record.iwae or {}).items() if int(k) not in (1, S)}:
        sizes = sorted(bounds)
        shown = " · ".join(number(bounds[k]) for k in sizes)
        table.append(("IWAE bounds", "", shown, f"at {', '.join(map(str, sizes))} draws"))
    if record.khat_bad is not None and S:
        table.append(("k-hat too high", "", f"{record.khat_bad:.0%}", f"above {khat_limit(S):.2f}"))
    table.append(("active units", "", _text(record.active_units, 0), ""))
    many = f"{record.num_data}{'' if record.effective_rows is None else ' weighted'}"
    words = {"many": many, "kind": KINDS.get(kind, "")}
    return [
        Number(name, sign + value, spread, MEANINGS[name].format(**words))
        for name, sign, value, spread in table
        if value is not None
    ]


def _text(value: float | None, digits: int = 2) -> str | None:
    return None if value is None else number(value, digits)


def number(value: float | None, digits: int = 2) -> str:
    """A number as people write it, with a true minus; a dash where there is none.

    Args:
        value: the number.
        digits: after the point.

    Returns:
        The text.
    """
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")
