"""Collects what solvers warn about, by the fit that it belongs to, from several threads at once."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning

__all__ = ["SolverLog"]

_COLLECTED: tuple[type[Warning], ...] = (ConvergenceWarning, LinAlgWarning)


class SolverLog:
    """Solver warnings (no convergence, ill-conditioned systems), counted by fit.

    ``warnings.catch_warnings`` changes the state of the whole process, so it cannot be entered in
    every worker thread. It is entered once, around all fits, with a handler that asks the calling
    thread what it is fitting. Any other warning is passed on as it came.

    Examples
    --------
    >>> log = SolverLog()
    >>> with log.listen(), log.fit("C=1"):
    ...     warnings.warn("lbfgs failed to converge", ConvergenceWarning)
    >>> log.counts
    Counter({'C=1': 1})
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._here = threading.local()
        self._lock = threading.Lock()
        self._default = "refit"

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Collect until the block ends."""
        with warnings.catch_warnings():
            passed_on = warnings.showwarning
            for category in _COLLECTED:
                warnings.simplefilter("always", category)

            def show(
                message: Warning | str,
                category: type[Warning],
                filename: str,
                lineno: int,
                file: TextIO | None = None,
                line: str | None = None,
            ) -> None:
                if issubclass(category, _COLLECTED):
                    with self._lock:
                        self.counts[getattr(self._here, "name", self._default)] += 1
                else:
                    passed_on(message, category, filename, lineno, file, line)

            warnings.showwarning = show
            yield

    @contextmanager
    def fit(self, name: str) -> Iterator[None]:
        """Say what the calling thread fits until the block ends."""
        self._here.name = name
        try:
            yield
        finally:
            del self._here.name
