"""One writer for a store: a lock file beside it, which names the holder.

On one kernel ``flock`` alone decides. It belongs to the open file, so the kernel drops it when the
holder dies, however it dies; a forked child inherits the open file and would keep the lock of a dead
parent alive, so children close it. Between hosts ``flock`` reaches nobody on some network file
systems, and on others the server may never hear of a death. There the modification time of the
lock file counts, which its holder renews every 30 s: two minutes without a beat is dead.

A lock file appears complete (linked from a temporary name, which fails if there is one) and is never
written again, so that its inode stands for its holder. Readers take no lock.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from featx.errors import StoreLockedError
from featx.files import disk_errors, temporary_path
from featx.store import lockfile

__all__ = ["WriterLock", "require_free"]

DEAD_SECONDS = 120.0
"""A holder on another host that has been silent for so long is dead."""

_RETRY_SECONDS = 0.05
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class WriterLock:
    """The lock of one store.

    Parameters
    ----------
    store : Path
        The store; the lock lies beside it, with ``.lock`` appended to its name.

    Examples
    --------
    >>> import tempfile
    >>> lock = WriterLock(Path(tempfile.mkdtemp()) / "photos.h5")
    >>> lock.acquire()
    >>> lock.confirm()
    >>> lock.release()
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.path = store.with_name(f"{store.name}.lock")
        self._descriptor: int | None = None
        self._owner = 0
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    def acquire(self, wait_seconds: float = 0.0) -> None:
        """Take the lock.

        Parameters
        ----------
        wait_seconds : float, default=0
            How long to try again while another writer has it; by default it fails at once.

        Raises
        ------
        StoreLockedError
            If another writer has it; the text names its host, process and since when.
        StoreError
            If the lock file cannot be written.
        """
        until = time.monotonic() + wait_seconds
        while True:
            try:
                descriptor = self._take()
                break
            except StoreLockedError:
                left = until - time.monotonic()
                if left <= 0:
                    raise
                time.sleep(min(_RETRY_SECONDS, left))
        self._descriptor, self._owner, self._stop = descriptor, os.getpid(), threading.Event()
        try:
            heart = threading.Thread(
                target=lockfile.beat,
                args=(descriptor, self.path, self._stop),
                name="featx-heartbeat",
                daemon=True,
            )
            heart.start()
        except BaseException:
            self.release()
            raise
        self._heart = heart

    def confirm(self) -> None:
        """Make sure that the lock is still ours; to be called before anything is published.

        A process that slept for two minutes (a closed laptop, a paused machine) may have been taken
        for dead. This beats once, so that a taker who has not finished sees life and gives up.

        Raises
        ------
        StoreLockedError
            If the lock is not held by this process, or no longer.
        """
        if self._descriptor is None or self._owner != os.getpid():
            raise StoreLockedError(f"{self.store} is not locked by this process; take its lock first")
        known = lockfile.touch(self._descriptor, self.path)
        with disk_errors(self.path, "read"):
            if known and lockfile.is_still(self._descriptor, self.path):
                return
            found = lockfile.open_existing(self.path)
        if found is None:
            raise StoreLockedError(
                f"{self.path}, which this process held, has been removed, so that another process may be "
                f"writing {self.store}; nothing more is written, run the same command again"
            )
        try:
            holder = lockfile.Holder.read(found)
        finally:
            lockfile.close(found)
        taker = holder or "another process"
        raise StoreLockedError(
            f"{self.store} has been taken over by {taker}, because this process gave no sign of life for "
            f"{DEAD_SECONDS:g} s; nothing more is written, run the same command again when that one is done"
        )

    def release(self) -> None:
        """Give the lock back and remove its file; does nothing without it, nor in a forked child."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None or self._owner != os.getpid():
            return
        with disk_errors(self.path):
            try:
                self._stop.set()
                if self._heart is not None:
                    # It must not touch the file that gets the number of this descriptor next.
                    self._heart.join()
                    self._heart = None
                if not lockfile.stays_in_place() and lockfile.is_still(descriptor, self.path):
                    self.path.unlink(missing_ok=True)
            finally:
                lockfile.close(descriptor)
            if lockfile.stays_in_place():
                # Windows removes no file that is open, and a new holder may be faster: leave it then.
                with suppress(PermissionError):
                    self.path.unlink(missing_ok=True)

    def _take(self) -> int:
        with disk_errors(self.path):
            while True:
                if lockfile.stays_in_place():
                    mine = self._take_in_place()
                elif (found := lockfile.open_existing(self.path)) is None:
                    mine = self._create(self.path)
                else:
                    try:
                        judged = self._judge(found, self.path)
                        mine = None if judged is None else self._replace(found, judged)
                    finally:
                        lockfile.close(found)
                if mine is not None:
                    return mine

    def _judge(self, descriptor: int, path: Path) -> os.stat_result | None:
        """Return the state of a dead holder's file, or None if it has gone; raise if the holder lives."""
        free = lockfile.try_lock(descriptor, path)
        if not lockfile.is_still(descriptor, path):
            return None
        state, holder = os.fstat(descriptor), lockfile.Holder.read(descriptor)
        if holder is None or holder.shares_our_kernel:
            if free:
                return state
        else:
            # Both times are the server's. One that was put back makes ages negative: old as well,
            # or the dead would block until the clock has caught up.
            age = abs(self._clock() - state.st_mtime)
            if age > DEAD_SECONDS and (free or not lockfile.stays_in_place()):
                return state
            if free:
                raise StoreLockedError(
                    f"{self.store} is being written by {holder}; its heartbeat is {age:.0f} s old and it "
                    f"counts as dead after {DEAD_SECONDS:g} s; wait until then or until it is done, stop "
                    "it, or choose another output"
                )
        raise StoreLockedError(
            f"{self.store} is being written by {holder or 'another process'}; wait until it is done, stop "
            "it, or choose another output"
        )

    def _replace(self, found: int, judged: os.stat_result) -> int | None:
        """Put our lock file in the place of a dead holder's; None if something changed meanwhile.

        All who judged the same file (inode and last beat) compete for one name, which only one can
        create, and each looks again at the lock file once it has that name: a taker that comes late
        finds another inode, a holder that woke up has beaten, and both let go. The winner's one
        rename is at once the takeover and the end of the name.

        What remains: POSIX has no "rename if the target is still this inode". Should a holder that
        counted as dead wake up *and* release *and* a third writer start, or a taker die and two more
        clear up after it, all between the winner's last look and the next system call, then a lock
        is overwritten. Its holder learns it from :meth:`confirm` before it publishes.
        """
        claim = self.path.with_name(f"featx-{judged.st_ino:x}-{judged.st_mtime_ns:x}.lock")
        mine = self._create(claim)
        if mine is None:
            self._clear(claim)
            return None
        try:
            if lockfile.is_still(found, self.path) and os.fstat(found).st_mtime_ns == judged.st_mtime_ns:
                with suppress(FileNotFoundError):
                    os.replace(claim, self.path)  # noqa: PTH105 - the name that fault injection knows
            else:
                claim.unlink(missing_ok=True)
            if lockfile.is_still(mine, self.path):
                return mine
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                claim.unlink()
            lockfile.close(mine)
            raise
        lockfile.close(mine)
        return None

    def _clear(self, claim: Path) -> None:
        """Remove the name of a taker that died; raise if it lives."""
        found = lockfile.open_existing(claim)
        if found is None:
            return
        try:
            if self._judge(found, claim) is not None:
                claim.unlink(missing_ok=True)
        finally:
            lockfile.close(found)

    def _create(self, target: Path) -> int | None:
        """Make a file that is locked and complete when it appears; None if there is one."""
        temporary, mine = temporary_path(self.store), None
        try:
            mine = lockfile.create_signed(temporary)
            try:
                # Whoever has the lock may have cleared the temporary file away: then try all again.
                with suppress(FileExistsError, FileNotFoundError):
                    os.link(temporary, target)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # Here others may see it before it names us; flock alone tells it from a dead one's.
                if mine is not None:
                    lockfile.close(mine)
                mine = lockfile.create_signed(target)
            # NFS may say that the name exists when the link was made by a request sent twice.
            if mine is not None and lockfile.is_still(mine, target):
                kept, mine = mine, None
                return kept
            return None
        finally:
            if mine is not None:
                lockfile.close(mine)
            lockfile.drop(temporary)

    def _take_in_place(self) -> int | None:
        """Lock and write the one file again: Windows replaces no file that is open."""
        descriptor = lockfile.remember(
            os.open(self.path, os.O_RDWR | os.O_CREAT | lockfile.CLOSED_ON_EXEC, 0o666)
        )
        try:
            if self._judge(descriptor, self.path) is not None:
                lockfile.sign(descriptor, self.path)
                return descriptor
        except BaseException:
            lockfile.close(descriptor)
            raise
        lockfile.close(descriptor)
        return None

    def _clock(self) -> float:
        """Return the time of the file system, which is not the time of this host."""
        temporary = temporary_path(self.store)
        descriptor = os.open(temporary, lockfile.NEW, 0o666)
        try:
            return os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            lockfile.drop(temporary)


def require_free(store: Path) -> None:
    """Make sure that no writer is at work and that one may write, before hours are spent for it.

    Raises
    ------
    StoreLockedError
        Naming who is writing.
    StoreError
        If a file beside the store cannot be written.
    """
    path = Path(os.path.realpath(store))
    if path.parent.is_dir():
        lock = WriterLock(path)
        lock.acquire()
        lock.release()
