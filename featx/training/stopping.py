"""Signals that wait until a step of the training is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["HeldSignals", "hold_signals"]

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class HeldSignals:
    """The first signal is kept for :meth:`deliver`; a second one acts as it did before.

    Attributes
    ----------
    waiting : int or None
        The signal that came.
    """

    def __init__(self) -> None:
        self.waiting: int | None = None
        self._before: dict[int, Any] = {}

    def hold(self) -> None:
        """Begin to hold; what is ignored, and what Python does not handle, stays as it is."""
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is None or signal.getsignal(number) in (signal.SIG_IGN, None):
                continue
            self._before[number] = signal.signal(number, self._keep)

    def release(self) -> None:
        """Put everything back as it was."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def deliver(self) -> None:
        """Let the signal act now; goes on holding where it neither raises nor ends the process."""
        number, self.waiting = self.waiting, None
        self.release()
        if number is not None:
            signal.raise_signal(number)
        self.hold()

    def _keep(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        self.waiting = number
        self.release()


@contextmanager
def hold_signals() -> Iterator[HeldSignals]:
    """Hold SIGINT, SIGTERM and SIGHUP in the block; outside the main thread nothing is held.

    Examples
    --------
    >>> with hold_signals() as held:
    ...     signal.raise_signal(signal.SIGINT)
    ...     came, held.waiting = held.waiting, None
    >>> came == signal.SIGINT
    True
    """
    held = HeldSignals()
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    held.hold()
    try:
        yield held
    finally:
        held.release()
        if held.waiting is not None:
            signal.raise_signal(held.waiting)
