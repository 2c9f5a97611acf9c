"""One writer at a time: the lock on a folder, held by the command that writes into it."""

import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from pyro_vae.errors import InputError

LOCK = ".lock"  # in the folder
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)
COMMAND_LENGTH = 200
LOCKED_BYTE = 2**30  # on Windows, beyond what is read
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LockOwner:
    """The process that holds a lock, or left it: its id, its host, its command, and when it began to write."""

    pid: int
    host: str
    command: str
    since: str

    def __str__(self) -> str:
        where = "" if self.host == socket.gethostname() else f" on host {self.host}"
        text = f"process {self.pid}{where} ({self.command}, since {self.since})"
        return "".join(letter if letter.isprintable() else "?" for letter in text)

    @classmethod
    def this_process(cls) -> "LockOwner":
        """This process, now."""
        program = Path(sys.argv[0]).name if sys.argv else "python"
        command = " ".join(["pyro-vae" if program == "__main__.py" else program, *sys.argv[1:]])
        began = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), command[:COMMAND_LENGTH], began)

    @classmethod
    def read(cls, path: Path) -> "LockOwner | None":
        """The owner that a lock's file names; None where it names none."""
        try:
            values = json.loads(path.read_bytes())
            return cls(int(values["pid"]), *(str(values[name]) for name in ("host", "command", "since")))
        except (OSError, ValueError, KeyError, TypeError):
            return None


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Inside, this process alone writes into a folder; `InputError` names the process that does already.

    The lock is released by the system when a process ends, however it ends; its file is removed at the end of the
    block. A file that a killed process left is taken over with a note, except that of another host, which cannot be
    asked whether the process runs. A folder that cannot be written is not locked: no other process can write there.

    Args:
        folder: the folder, which is there.
    """
    path = folder / LOCK
    handle = _acquire(path, folder)
    try:
        yield
    finally:
        if handle is not None:
            _release(path, handle)


def _acquire(path: Path, folder: Path) -> int | None:
    """The open file of a lock that this process has taken; None where no file can be written."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            if error.errno in UNWRITABLE:
                return None
            raise InputError(f"{path}: cannot be opened as a lock ({error.strerror}); delete it") from error
        if not _try_lock(handle):
            os.close(handle)
            owner = LockOwner.read(path) or "another process"
            raise InputError(f"{folder}: {owner} writes to it; wait until that ends, or name another folder")
        if _is_file_of(handle, path):
            break
        os.close(handle)  # its owner removed the file before it could be locked
    try:
        _take_over(path)
        _write_owner(handle)
    except BaseException:
        _unlock(handle)
        os.close(handle)
        raise
    return handle


def _take_over(path: Path) -> None:
    """Note an owner that is gone; `InputError` for one on another host."""
    owner = LockOwner.read(path)
    if owner is None:
        return
    if owner.host != socket.gethostname():
        raise InputError(
            f"{path.parent}: {owner} wrote to it and may still do; this host cannot see whether it runs: if it has "
            f"ended, delete {path}"
        )
    log.warning("note: %s: %s was killed while it wrote there; its lock is taken over", path.parent, owner)


def _write_owner(handle: int) -> None:
    """Name this process in the file; without effect on a full disk, where the lock holds all the same."""
    try:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(asdict(LockOwner.this_process())).encode())
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise


def _release(path: Path, handle: int) -> None:
    if sys.platform == "win32":  # an open file cannot be removed there
        _unlock(handle)
        os.close(handle)
        path.unlink(missing_ok=True)
        return
    if _is_file_of(handle, path):
        path.unlink(missing_ok=True)
    _unlock(handle)
    os.close(handle)


def _is_file_of(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: int) -> None:
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)
