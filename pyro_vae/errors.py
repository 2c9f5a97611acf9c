"""The package's own errors: what went wrong, where, and what to try."""


class InputError(ValueError):
    """Something the caller gave cannot be used; the command line shows the message alone and exits with 2."""


class RowsError(InputError):
    """A program has no weight for each row, because some site lies outside the one plate over rows."""


class CollapseWarning(UserWarning):
    """Most latent dimensions carry nothing: the posterior has collapsed onto the prior there."""


class HandlersWarning(UserWarning):
    """A program cannot be recorded as a plain graph, so each of its steps goes by Pyro's handlers."""


class DivergedError(RuntimeError):
    """The objective became NaN or infinite; the program holds the last good weights."""


class RankLostError(RuntimeError):
    """Another process of a run on several has ended or cannot be reached; what was checkpointed can be gone on with."""
