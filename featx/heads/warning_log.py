"""Collects what solvers warn about, by the fit that it belongs to, from several threads at once."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning

from featx.heads.describing import describe

__all__ = ["FoldLog", "SolverLog"]

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
        self._seen: set[tuple[str, int]] = set()
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
                        self._seen.add(getattr(self._here, "place", (self._default, 0)))
                else:
                    passed_on(message, category, filename, lineno, file, line)

            warnings.showwarning = show
            yield

    @property
    def counts(self) -> Counter[str]:
        """In how many folds each fit was warned of."""
        return Counter(name for name, _ in self._seen)

    @contextmanager
    def fit(self, name: str, fold: int = 0) -> Iterator[None]:
        """Say what the calling thread fits until the block ends."""
        self._here.place = (name, fold)
        try:
            yield
        finally:
            del self._here.place

    def of_fold(self, number: int) -> FoldLog:
        """Return the log of the fits of one fold."""
        return FoldLog(self, number, {})


@dataclass(frozen=True, slots=True)
class FoldLog:
    """A :class:`SolverLog` that knows the fold, and the steps before the classifier."""

    log: SolverLog
    fold: int
    steps: Mapping[str, Any]

    def after(self, steps: Mapping[str, Any]) -> FoldLog:
        """Return the log of fits after other steps."""
        return FoldLog(self.log, self.fold, steps)

    def fit(self, point: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Say which grid point the calling thread fits until the block ends."""
        return self.log.fit(describe({**point, **self.steps}), self.fold)
