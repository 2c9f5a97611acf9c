"""Exceptions and warnings of this package. Their messages say what went wrong, where, and what to try."""


class InputError(ValueError):
    """An argument, option or file cannot be used; the command line prints the message alone and exits with 2.

    Args:
        message: what, where, and what to try; one line, whatever a library's own words in it have.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


class DamagedFileError(InputError):
    """A file of a run is not what was written: a bit has changed, or a part is missing."""


class UnwritableError(OSError):
    """A file could not be written, because the disk is full or may not be written; the message says what to do."""

    def __str__(self) -> str:
        return str(self.args[-1])


class RowsError(InputError):
    """A program has no log weight for each row, because a site lies outside the one plate over rows."""


class PointMassError(InputError):
    """A guide has a point mass at a continuous latent, so it has no density, no ELBO and no importance weights."""


class OutsideSupportError(InputError):
    """A guide draws latents outside the support that the model has for them."""


class ZeroDensityWarning(UserWarning):
    """Some rows have a density of zero, or none that can be computed; the message says which, and why."""


class UnknownValueWarning(UserWarning):
    """Some new rows hold levels that no training row had, or values that their column cannot have."""


class ImputationWarning(UserWarning):
    """Some rows' missing values are not to be trusted, or stay missing; the message says which, and why."""


class PrecisionWarning(UserWarning):
    """Log densities lose digits in the program's floating type; the message says how many nats, and what to do."""


class CollapseWarning(UserWarning):
    """Most latent dimensions are inactive: their posterior has collapsed onto the prior."""


class HandlersWarning(UserWarning):
    """A program cannot be compiled to a graph of tensor operations, so its steps run uncompiled, by Pyro's handlers."""


class DivergedError(RuntimeError):
    """The objective became NaN or infinite; the program holds the last good weights."""


class RankLostError(RuntimeError):
    """Another process of a distributed run has ended or cannot be reached; the fit can resume from its checkpoint."""
