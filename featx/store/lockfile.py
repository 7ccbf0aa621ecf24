"""The file that a writer's lock is: who holds it, the kernel's lock on it, its beat.

Descriptors of lock files are remembered, since a forked child has to close them: it would keep the
lock of a dead parent alive.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from featx.files import disk_errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BEAT_SECONDS = 30.0
"""Between two signs of life of a holder."""

CLOSED_ON_EXEC = getattr(os, "O_CLOEXEC", 0)
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | CLOSED_ON_EXEC

_BUSY = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

held: set[int] = set()
"""Open descriptors of lock files."""


def _close_in_child() -> None:
    for descriptor in held:
        os.close(descriptor)
    held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as the file says it: host and its boot id, process, time of ISO 8601 in UTC."""

    host: str
    boot: str
    pid: int
    since: str

    @classmethod
    def ours(cls) -> Holder:
        """Describe this process."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), boot_id(), os.getpid(), since)

    @classmethod
    def read(cls, descriptor: int) -> Holder | None:
        """Return None without a name in the file: after a power cut, or not yet, where there are no links."""
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            data = json.loads(os.read(descriptor, 4096))
            return cls(str(data["host"]), str(data.get("boot", "")), int(data["pid"]), str(data["since"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def shares_our_kernel(self) -> bool:
        """Containers have host names of their own; where there is no boot id, the name must do."""
        boot = boot_id()
        return self.boot == boot if self.boot and boot else self.host == socket.gethostname()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


def boot_id() -> str:
    """Give what tells one run of a kernel from all others, empty where there is no such thing."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def beat(descriptor: int, path: Path, stop: threading.Event) -> None:
    """Give signs of life until told to stop."""
    while not stop.wait(BEAT_SECONDS):
        touch(descriptor, path)


def touch(descriptor: int, path: Path) -> bool:
    """Let the server set its time on our file; False if it no longer has that file."""
    try:
        # By descriptor: the path may lead to the file of one who took over.
        os.utime(descriptor if os.utime in os.supports_fd else path)
    except OSError as error:
        # A beat that fails for another reason is one beat less; the next may succeed.
        return error.errno != errno.ESTALE
    return True


def create_signed(path: Path) -> int | None:
    """Create, lock and sign a new file; None if there is one."""
    try:
        descriptor = remember(os.open(path, NEW, 0o666))
    except FileExistsError:
        return None
    try:
        if try_lock(descriptor, path):
            sign(descriptor, path)
            return descriptor
    except BaseException:
        close(descriptor)
        with suppress(OSError):  # the first error is the one to report
            path.unlink()
        raise
    close(descriptor)
    return None


def sign(descriptor: int, path: Path) -> None:
    """Write into a locked file who holds it."""
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(asdict(Holder.ours())).encode())
    # NFS keeps what was written to itself until the file is closed, or its times are set.
    touch(descriptor, path)


def open_existing(path: Path) -> int | None:
    """Open a lock file to judge it; None if there is none."""
    try:
        try:
            return remember(os.open(path, os.O_RDWR | CLOSED_ON_EXEC))
        except PermissionError:
            # Of another user. NFS wants a file open for writing to lock it; elsewhere this will do.
            return remember(os.open(path, os.O_RDONLY | CLOSED_ON_EXEC))
    except FileNotFoundError:
        return None


def drop(temporary: Path) -> None:
    """Remove a temporary file, if that is possible."""
    # What cannot be removed now is no reason to fail: the next writer of the store removes it.
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def remember(descriptor: int) -> int:
    """Let forked children close this descriptor."""
    held.add(descriptor)
    return descriptor


def close(descriptor: int) -> None:
    """Close a descriptor that was remembered, and with it give back its lock."""
    held.discard(descriptor)
    os.close(descriptor)


def is_still(descriptor: int, path: Path) -> bool:
    """Whether ``path`` still leads to the open file."""
    try:
        # Network file systems answer a stat from their cache; to open a file, they ask.
        again = os.open(path, os.O_RDONLY | CLOSED_ON_EXEC)
        try:
            return os.path.samestat(os.fstat(descriptor), os.fstat(again))
        finally:
            os.close(again)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return False
        raise


def stays_in_place() -> bool:
    """Whether a lock file that is open can be neither replaced nor removed, as on Windows."""
    return fcntl is None


def try_lock(descriptor: int, path: Path) -> bool:
    """Take the lock of an open file; False if another one has it."""
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
