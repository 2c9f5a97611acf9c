"""The objectives by name, and the settings that choose one: plain data, imported without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyro_vae.option_registry import Entry, Registry, check_owned
from pyro_vae.options import Option, Value, options_of, setting

GROUP = "Objective"
MODULE = "pyro_vae.inference.objectives.make_objective"
OBJECTIVES = Registry(
    "objective",
    [
        Entry(
            "elbo",
            f"{MODULE}:elbo",
            "the ELBO",
            (
                Option(
                    "free_bits",
                    float,
                    None,
                    "KL without penalty, for each latent dimension; K times that for all where they are dependent.",
                    minimum=0,
                    metavar="NATS",
                    group=GROUP,
                ),
            ),
        ),
        Entry("analytic-elbo", f"{MODULE}:analytic_elbo", "the ELBO with its KL in closed form"),
        Entry(
            "iwae",
            f"{MODULE}:iwae",
            "the importance-weighted bound",
            (Option("dreg", bool, False, "Doubly reparameterized gradients for iwae.", is_flag=True, group=GROUP),),
        ),
    ],
)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The objective by its name, and in `options` the settings that it owns; `InputError` for those of another."""

    loss: str = setting(
        "elbo",
        str,
        "The objective: the ELBO, the ELBO with its KL in closed form, or the importance-weighted bound.",
        choices=OBJECTIVES,
        group=GROUP,
    )
    options: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options_of(type(self))["loss"].check(self.loss)
        check_owned(self.options, {"loss": OBJECTIVES[self.loss]}, {"loss": OBJECTIVES})
