"""Signals: the first one unwinds the command, so that work is put in order, the second ends the process.

An exception raised by a signal handler comes out of whatever runs just then. Where that is a weak
reference's callback or a destructor, Python prints it and goes on; where it is a callback of the HDF5
library, h5py makes a SystemError of it. So the handler looks at the stack first and tries again a
moment later where it must, and also when Python tells that the exception was ignored.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = ["SIGHUP_CODE", "SIGINT_CODE", "SIGTERM_CODE", "Terminated", "first_signal_unwinds"]

SIGINT_CODE, SIGTERM_CODE, SIGHUP_CODE = 130, 143, 129
"""Exit codes of a shell for a process ended by these signals: 128 and the signal's number."""

_SOON = 0.01
"""Seconds until the next try: far longer than most callbacks, and nobody notices it."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived; like KeyboardInterrupt, it is no Exception, so that nothing swallows it.

    Parameters
    ----------
    word : str
        What happened, for people.
    code : int
        Exit code of the process.
    """

    def __init__(self, word: str, code: int) -> None:
        super().__init__(word)
        self.word = word
        self.code = code


@contextmanager
def first_signal_unwinds() -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP raise in the block, and the second end the process at once.

    SIGINT raises KeyboardInterrupt, the others :class:`Terminated`. What is ignored from the start stays
    ignored: SIGINT in a shell's background job, SIGHUP under nohup. Only for the main thread.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP"):
        numbers.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    numbers = [number for number in numbers if before[number] not in (signal.SIG_IGN, None)]
    terminals = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]
    unwinding = _Unwinding()

    def stop(signum: int, frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        error: BaseException
        if signum == signal.SIGINT:
            error = KeyboardInterrupt()
        elif signum == signal.SIGTERM:
            error = Terminated("Terminated", SIGTERM_CODE)
        else:
            # The shell and the kernel both tell that the terminal is gone; that is one reason, not two.
            signal.signal(signum, signal.SIG_IGN)
            _detach(terminals)
            error = Terminated("Hung up", SIGHUP_CODE)
        unwinding.start(error, frame)

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        unwinding.end()
        for number in numbers:
            if signal.getsignal(number) is stop:
                signal.signal(number, before[number])


class _Unwinding:
    """Raises one exception in the main thread where it does no harm, and again if it was ignored."""

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._hook = sys.unraisablehook

    def start(self, error: BaseException, frame: FrameType | None) -> None:
        """Raise the error now, or soon."""
        self._error = error
        if hasattr(signal, "setitimer"):
            self._hook, sys.unraisablehook = sys.unraisablehook, self._ignored
            signal.signal(signal.SIGALRM, self._try)
        self._try(0, frame)

    def end(self) -> None:
        """Raise no more."""
        if self._error is not None and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            sys.unraisablehook = self._hook
        self._error = None

    def _try(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        if self._error is None:
            return
        if hasattr(signal, "setitimer") and _is_called_back(frame):
            signal.setitimer(signal.ITIMER_REAL, _SOON)
            return
        raise self._error

    def _ignored(self, unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_value is not self._error:
            self._hook(unraisable)
            return
        signal.setitimer(signal.ITIMER_REAL, _SOON)


def _is_called_back(frame: FrameType | None) -> bool:
    """Whether C code that cannot pass an exception on stands between this frame and its callers."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] in ("h5py", "weakref") or frame.f_code.co_name == "__del__":
            return True
        # HDF5 writes to file objects by their methods.
        if isinstance(frame.f_locals.get("self"), io.RawIOBase):
            return True
        frame = frame.f_back
    return False


def _detach(descriptors: Sequence[int]) -> None:
    """Send what would go to a terminal that is gone nowhere; an error there would hide what happened."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        for descriptor in descriptors:
            os.dup2(nowhere, descriptor)
    finally:
        os.close(nowhere)
