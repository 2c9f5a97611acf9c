"""Names of files and folders that the system takes."""

import errno
import os
from pathlib import Path

from pyro_vae.errors import InputError

REFUSED_NAMES = (errno.ENAMETOOLONG, errno.ELOOP)


def require_path(path: Path) -> None:
    """`InputError` for a name that the system refuses: one that is too long, or links that lead to themselves.

    Args:
        path: the file or folder, which need not exist.
    """
    try:
        path.exists()
    except OSError as error:
        raise refused_name(error) from error


def refused_name(error: OSError) -> InputError:
    """The error for a name that the system refused.

    Args:
        error: what the system said, of a kind in `REFUSED_NAMES`.

    Returns:
        The error.
    """
    return InputError(f"{str(error.filename)!r:.80}: {os.strerror(error.errno or 0)}; try another name")
