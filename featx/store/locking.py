"""One writer for a store: a kernel lock on a file beside it, which names the holder.

``flock`` belongs to the open file, so the kernel drops it when the holder dies, however it dies. A
forked child inherits the open file and would keep the lock of a dead parent alive, so children
close it. The lock file is removed while it is still locked; whoever then gets the lock of a file
that has been removed notices by its inode and tries again.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from featx.errors import StoreLockedError
from featx.files import disk_errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["WriterLock"]

_BUSY = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)
_held: set[int] = set()


def _close_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class WriterLock:
    """The lock of one store.

    Parameters
    ----------
    store : Path
        The store; the lock lies beside it, with ``.lock`` appended to its name.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.path = store.with_name(f"{store.name}.lock")
        self._descriptor: int | None = None
        self._owner = 0

    def acquire(self) -> None:
        """Take the lock at once.

        Raises
        ------
        StoreLockedError
            If another writer has it; the text names its host, process and since when.
        StoreError
            If the lock file cannot be written.
        """
        while True:
            with disk_errors(self.path):
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            try:
                if not _try_lock(descriptor, self.path):
                    raise StoreLockedError(
                        f"{self.store} is being written by {_holder(descriptor)}; wait until it is "
                        "done, stop it, or choose another output"
                    )
                if _is_still(descriptor, self.path):
                    break
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        self._descriptor = descriptor
        self._owner = os.getpid()
        _held.add(descriptor)
        try:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})
            with disk_errors(self.path):
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, text.encode())
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give the lock back and remove its file; does nothing without it, nor in a forked child."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None or self._owner != os.getpid():
            return
        _held.discard(descriptor)
        with disk_errors(self.path):
            try:
                if fcntl is not None:
                    self.path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)
            if fcntl is None:
                # Windows removes no file that is open, and a new holder may be faster: leave it then.
                try:
                    self.path.unlink(missing_ok=True)
                except PermissionError:
                    return


def _try_lock(descriptor: int, path: Path) -> bool:
    with disk_errors(path, "lock"):
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                _lock_windows(descriptor)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
    return True


def _lock_windows(descriptor: int) -> None:
    import msvcrt

    # A byte far behind the text, so that others can still read who holds the lock.
    os.lseek(descriptor, 1 << 30, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        data = json.loads(os.read(descriptor, 4096))
        return f"process {int(data['pid'])} on {data['host']} since {data['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
