"""Importing large packages without the garbage collector going through them meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collector_paused"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """Let no garbage be collected inside the block, for the import of torch or of what needs it.

    An import makes a million objects and hardly any garbage; looking for some, again and again, takes a
    quarter of the time in which torch and torchvision are imported.

    Examples
    --------
    >>> with collector_paused():
    ...     import statistics
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
