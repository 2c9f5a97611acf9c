"""The estimators of log p(x) by name, with the options of each, as plain data: nothing large is imported.

To add one, write a function `(program, data, *, memory_mib, seed, group, …)` that returns a `LogPx`, and give it an
entry here, with the options that it alone owns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyro_vae.option_registry import Entry, Registry, check_owned
from pyro_vae.options import Option, Settings, Value, setting

GROUP = "Evidence"
PRIOR_SHARE = Option("prior_share", float, 0.0, "share of draws from the prior.", minimum=0, maximum=1, group=GROUP)


@dataclass(frozen=True)
class EvidenceMethod(Entry):
    """An estimator of log p(x): the function that computes it, and its own options.

    Attributes:
        progress: what has been done to rows that are finished, as in "annealed 3 of 10 rows"; empty where the function
            takes no `on_rows`.
        takes_draws: whether the function takes `num_samples` and `iwae`, and returns an `Evidence` where it draws.
    """

    progress: str = ""
    takes_draws: bool = False


EVIDENCE_METHODS = Registry(
    "evidence method",
    [
        EvidenceMethod(
            "auto",
            "pyro_vae.evidence.auto_evidence:auto_evidence",
            "exactly where possible, else by importance sampling around each row's modes",
            progress="scored",
            takes_draws=True,
        ),
        EvidenceMethod(
            "is",
            "pyro_vae.evidence.importance_sampling:log_evidence",
            "by importance sampling from the guide",
            (PRIOR_SHARE,),
            takes_draws=True,
        ),
        EvidenceMethod(
            "ais",
            "pyro_vae.evidence.annealed_importance:annealed_evidence",
            "by annealing, tighter and more expensive",
            (
                Option("temperatures", int, 500, "steps from start to posterior.", minimum=1, group=GROUP),
                Option("chains", int, 16, "chains for each row.", minimum=1, group=GROUP),
                Option("start", str, "guide", "where chains start.", ("guide", "prior"), group=GROUP),
            ),
            arguments={"temperatures": "num_temperatures", "chains": "num_chains"},
            progress="annealed",
        ),
        EvidenceMethod(
            "exact",
            "pyro_vae.evidence.exact_log_px:exact_evidence",
            "exactly, where possible (one or two latent dimensions, linear-Gaussian models, discrete latents)",
        ),
    ],
    group="pyro_vae.evidence_methods",
)


@dataclass(frozen=True)
class Estimator(Settings):
    """How log p(x) is computed; the ELBO, its terms, the IWAE bounds and k-hat are importance sampling's in any case.

    Raises `InputError` for a value that cannot be used, and for options that belong to another method.

    Attributes:
        method: a name of `EVIDENCE_METHODS`.
        num_samples: draws S for each row.
        memory_mib: memory for the draws in progress, in MiB.
        seed: seed of the draws.
        options: the method's own options by name; what is left out has its default.

    >>> Estimator("ais", options={"temperatures": 100}).keywords
    {'num_temperatures': 100, 'num_chains': 16, 'start': 'guide'}
    >>> Estimator("exact", options={"temperatures": 100})
    Traceback (most recent call last):
        ...
    pyro_vae.errors.InputError: --temperatures belongs to --method ais; leave it out, or choose that
    """

    method: str = setting("auto", str, "log p(x)", choices=EVIDENCE_METHODS, group=GROUP)
    num_samples: int = setting(1000, int, "Draws S for each row.", minimum=1, group=GROUP)
    memory_mib: float = setting(
        64.0,
        float,
        "Memory for the draws in progress; results need a few numbers for each row.",
        minimum=0,
        exclusive=True,
        group=GROUP,
    )
    seed: int = setting(0, int, "Seed of the draws.", group=GROUP)
    options: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_owned(self.options, {"method": EVIDENCE_METHODS[self.method]}, {"method": EVIDENCE_METHODS})

    @property
    def keywords(self) -> dict[str, Value]:
        """The method's own keyword arguments."""
        return EVIDENCE_METHODS[self.method].keywords(self.options)

    @property
    def label(self) -> str:
        """What the name of the split is followed by in `evaluation.json`; empty for the default method."""
        if self.method == "auto":
            return ""
        share = self.options.get("prior_share")
        return f" prior-share {share:g}" if share else f" {self.method}"
