"""All verdicts of a check together, and the families of checks."""

from dataclasses import asdict, dataclass, field

from pyro_vae.diagnostics.checks.check_size import CheckSize
from pyro_vae.diagnostics.checks.verdicts import LEVELS, WORDS, Verdict
from pyro_vae.errors import InputError

FAMILIES = {
    "columns": "Columns of rows and of draws",
    "pairs": "Pairs of columns",
    "pictures": "Pictures of rows and of draws",
    "statistics": "Statistics of your own",
    "classifier": "Classifier two-sample test",
    "kernel": "Kernel two-sample test",
    "memorization": "Draws beside training rows",
    "guide": "Calibration of the guide",
    "densities": "log p(x) of rows and of draws",
    "k-hat": "k-hat of rows and of draws",
    "baseline": "log p(x) beside a baseline",
    "aggregate": "Aggregate posterior beside the prior",
    "latents": "Use of the latents",
}


@dataclass(frozen=True)
class ModelCheck:
    """What the checks of a program say.

    Attributes:
        verdicts: one a check, in the order of `FAMILIES`.
        rows: which rows were checked, in words.
        num_rows: their number.
        num_training: the number of training rows that estimated the program's parameters.
        size: the numbers of draws.
        seconds: how long it took.
        notes: what a reader has to know.
        num_refits: the number of refits that say how statistics vary with the parameters; 0 for the bound 1 + n / N.
    """

    verdicts: tuple[Verdict, ...]
    rows: str
    num_rows: int
    num_training: int
    size: CheckSize
    seconds: float
    notes: tuple[str, ...] = field(default=())
    num_refits: int = 0

    def __getitem__(self, name: str) -> Verdict:
        found = {verdict.name: verdict for verdict in self.verdicts}
        if name not in found:
            raise InputError(f"no verdict {name!r}; there are {', '.join(found)}")
        return found[name]

    @property
    def by_level(self) -> list[Verdict]:
        """The verdicts, those that matter first."""
        return sorted(self.verdicts, key=lambda verdict: LEVELS.index(verdict.level))

    def __repr__(self) -> str:
        lines = [f"ModelCheck({self.num_rows} {self.rows}):"]
        for verdict in self.by_level:
            p = "" if verdict.p_value is None else f"p {verdict.p_value:.2g}"
            lines.append(f"  {WORDS[verdict.level]:<22} {verdict.title:<38} {p:<9} {verdict.effect}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """The check as plain values, for JSON."""
        return {
            "rows": self.rows,
            "num_rows": self.num_rows,
            "num_training": self.num_training,
            "num_refits": self.num_refits,
            **{name: value for name, value in asdict(self.size).items() if name != "num_rows"},
            "seconds": self.seconds,
            "notes": list(self.notes),
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }
