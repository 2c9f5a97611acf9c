"""The training settings: each with its default, unit, check and help, once. Optimizers and schedules by name."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from pyro_vae.errors import InputError
from pyro_vae.option_registry import Entry, Registry, require_known
from pyro_vae.options import Option, Settings, options_of, setting

OPTIMIZERS = Registry(
    "optimizer",
    [
        Entry("adam", "torch.optim:Adam", fixed={"fused": True}),
        Entry("adamw", "torch.optim:AdamW", fixed={"fused": True}),
        Entry("adagrad", "torch.optim:Adagrad"),
        Entry("rmsprop", "torch.optim:RMSprop"),
        Entry("sgd", "torch.optim:SGD", fixed={"momentum": 0.9, "fused": True}),
    ],
)
SCHEDULES = Registry(  # from the share of all steps that is done, in [0, 1], to the factor of the learning rate
    "schedule",
    [
        Entry("constant", "pyro_vae.inference.svi.schedules:constant"),
        Entry("cosine", "pyro_vae.inference.svi.schedules:cosine"),
        Entry("one-cycle", "pyro_vae.inference.svi.schedules:one_cycle"),
    ],
)
OBJECTIVE, TRAINING = "Objective", "Training"
DEVICE = Option(
    "device", str, "auto", "auto: an accelerator, if there is one.", ("auto", "cpu", "cuda", "mps"), group=TRAINING
)
DTYPE = Option("dtype", str, "float32", "Floating type of weights and rows.", ("float32", "float64"), group=TRAINING)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """The training settings of `fit`, which are its keywords, options of the command line and keys of `config.toml`.

    Each field's default is here; its unit and help are in its `Option` (`options_of(TrainConfig)`). Raises
    `InputError` for a value that cannot be used.

    >>> TrainConfig(epochs=10).rate(3.0)
    0.005
    >>> TrainConfig(epochs=0)
    Traceback (most recent call last):
        ...
    pyro_vae.errors.InputError: epochs must be positive, got 0
    """

    epochs: int = setting(
        100, int, "Passes over the training rows, at most.", minimum=0, exclusive=True, group=TRAINING
    )
    batch_size: int = setting(100, int, "Rows for each step.", minimum=0, exclusive=True, group=TRAINING)
    optimizer: str = setting("adam", str, "The optimizer, torch's.", choices=OPTIMIZERS, group=TRAINING)
    learning_rate: float = setting(
        5e-3,
        float,
        "Learning rate; the highest one where a schedule changes it. Unless it is given pyro-vae fit takes 0.01 for "
        "pictures with up to two latents.",
        minimum=0,
        exclusive=True,
        group=TRAINING,
    )
    schedule: str = setting(
        "one-cycle", str, "Learning-rate schedule over all steps of the fit.", choices=SCHEDULES, group=TRAINING
    )
    clip: float | None = setting(
        None, float, "Largest joint norm of the gradients.", metavar="NORM", minimum=0, exclusive=True, group=TRAINING
    )
    beta: float = setting(
        1.0, float, "Weight of the KL term in the objective; reports are always at 1.", minimum=0, group=OBJECTIVE
    )
    kl_warmup: float = setting(
        0.0, float, "Epochs over which that weight rises from 0.", metavar="EPOCHS", minimum=0, group=OBJECTIVE
    )
    num_particles: int | None = setting(
        None, int, "Draws of z for each row and step (1; iwae: 8).", minimum=0, exclusive=True, group=OBJECTIVE
    )
    patience: int | None = setting(
        0,
        int,
        "Stop after so many epochs without a better validation ELBO; 0: never.",
        metavar="EPOCHS",
        minimum=0,
        group=TRAINING,
        is_optional=True,
    )
    max_restarts: int = setting(
        3,
        int,
        "How often a fit that runs away goes back to its best weights with a quarter of the learning rate; 0: never.",
        minimum=0,
        group=TRAINING,
    )
    precision: str = setting(
        "float32",
        str,
        "Type of the products of linear and convolutional layers of model and guide in steps; weights, densities and "
        "every score stay in float32. auto: bfloat16 where it is 1.5 times quicker here and changes the first gradient "
        "by at most 2 %.",
        choices=("float32", "bfloat16", "auto"),
        group=TRAINING,
    )
    seed: int = setting(0, int, "Same seed, same machine, same bits.", group=TRAINING)
    compile: bool | None = setting(
        None,
        bool,
        "A step is recorded as a plain graph by default; --compile passes it to torch.compile too (half a minute, for "
        "long fits), --no-compile runs Pyro's handlers in each step.",
        group=TRAINING,
    )

    @classmethod
    def with_overrides(
        cls, config: "TrainConfig | None", overrides: Mapping[str, object], function: Callable[..., object]
    ) -> "TrainConfig":
        """Settings with some of them replaced.

        Args:
            config: the settings; None for the defaults.
            overrides: values by the names of the fields; `InputError` for a name that is none, with the nearest one.
            function: the function that was called with these keywords, whose other keywords are names to try.

        Returns:
            The new settings, checked.
        """
        if config is not None and not isinstance(config, TrainConfig):
            raise InputError(
                f"config is a TrainConfig, got a {type(config).__name__}; validation rows are given as valid=…"
            )
        keywords = [name for name in inspect.signature(function).parameters if name != "overrides"]
        require_known(overrides, [*options_of(cls), *keywords], function.__name__)
        values: Mapping[str, Any] = overrides
        return replace(cls() if config is None else config, **values)

    def rate(self, epoch: float) -> float:
        """The learning rate at a (fractional) epoch, counted from zero."""
        return self.learning_rate * float(SCHEDULES[self.schedule].load()(epoch / self.epochs))

    def kl_weight(self, epoch: float) -> float:
        """β at a (fractional) epoch: rising linearly from 0 over the warm-up, then constant."""
        return self.beta * (min(1.0, epoch / self.kl_warmup) if self.kl_warmup > 0 else 1.0)

    def out_of_patience(self, epoch: int, best_epoch: int) -> bool:
        """Whether `patience` epochs (0 or None: never) have passed without a better one, counted after the warm-up.

        Args:
            epoch: the number of finished epochs.
            best_epoch: the epoch with the best validation ELBO.

        Returns:
            Whether the fit is to end.
        """
        patience = self.patience or math.inf
        return epoch - max(best_epoch, math.ceil(self.kl_warmup)) >= patience

    def epoch_seed(self, epoch: int) -> int:
        """The seed of an epoch's random numbers; −1 is for validation, −2 for the first trace."""
        return (self.seed * 1_000_003 + epoch + 1) % 2**32


class TrainOverrides(TypedDict, total=False):
    """The same settings as keywords of `fit`, for type checkers; a test compares the two."""

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    schedule: str
    clip: float | None
    beta: float
    kl_warmup: float
    num_particles: int | None
    patience: int | None
    max_restarts: int
    precision: str
    seed: int
    compile: bool | None
