"""Every error that featx raises on purpose.

::

    FeatxError                      the base class: one clear line for people
    ├── UnknownNameError            a backbone, node, head or option that does not exist; lists near ones
    ├── SourceError                 no such folder, no images, an unreadable source
    ├── ImageError                  one image cannot be used (quarantined, never fatal by itself)
    ├── TooManySkippedError         more images were skipped than ``--max-skip`` allows
    ├── BackboneError               a network cannot be built, cut or pooled as asked
    │   └── WeightsError            weights are missing or do not fit the network
    ├── StoreError                  a store cannot be read or written
    │   ├── NotAStoreError          the path exists and is something else
    │   ├── DamagedStoreError       the bytes are not those that were written
    │   ├── SpaceMismatchError      the store holds embeddings of another space
    │   ├── DriftError              the same space is computed differently on this machine
    │   ├── StoreLockedError        another process is writing this store
    │   └── OverflowStoreError      an embedding does not fit the stored dtype
    ├── DatasetError                labels, classes or splits do not allow the fit
    ├── TrainingError               fine-tuning diverged
    └── ModelFileError              a model file is damaged, unsafe or of another version

A message says what was got, what was expected and what to do next, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "BackboneError",
    "DamagedStoreError",
    "DatasetError",
    "DriftError",
    "FeatxError",
    "ImageError",
    "ModelFileError",
    "NotAStoreError",
    "OverflowStoreError",
    "SourceError",
    "SpaceMismatchError",
    "StoreError",
    "StoreLockedError",
    "TooManySkippedError",
    "TrainingError",
    "UnknownNameError",
    "WeightsError",
]


class FeatxError(Exception):
    """Base class of all errors that featx raises on purpose.

    Catch this one to handle everything that is not a bug. The command line prints its text as a
    single line and exits with code 1.

    Examples
    --------
    >>> import featx
    >>> try:
    ...     featx.list_nodes("resnet5O")
    ... except featx.FeatxError as error:
    ...     print(type(error).__name__)
    UnknownNameError
    """


class UnknownNameError(FeatxError, ValueError):
    """A name that does not exist; the message lists the near ones.

    Parameters
    ----------
    kind : str
        What was looked for, in the singular: ``"backbone"``, ``"node"``, ``"head"``.
    name : str
        What was asked for.
    known : iterable of str
        All names that would have been right.
    hint : str, default=""
        A sentence that says where the whole list is.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        choices = sorted(known)
        near = difflib.get_close_matches(name, choices, n=4, cutoff=0.5)
        if near:
            suggestion = f" Did you mean {_either(near)}?"
        elif len(choices) <= 12:
            suggestion = f" There is {_either(choices)}." if choices else ""
        else:
            suggestion = ""
        super().__init__(f"Unknown {kind} {name!r}.{suggestion}{' ' + hint if hint else ''}")
        self.name = name
        self.near = near
        self._made_of = (kind, name, choices, hint)

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str], str]]:
        """Let an error of a worker process reach the one that waits for it."""
        return type(self), self._made_of


class SourceError(FeatxError):
    """The source of images does not exist, is empty, or cannot be read."""


class ImageError(FeatxError):
    """One image cannot be used; the text is the reason kept in the quarantine."""


class TooManySkippedError(FeatxError):
    """More images had to be skipped than the run allows."""


class BackboneError(FeatxError):
    """The network cannot be built, cut at a node, or pooled as asked."""


class WeightsError(BackboneError):
    """The weights are missing, unreadable, or do not fit the network."""


class StoreError(FeatxError):
    """A store cannot be read or written."""


class NotAStoreError(StoreError):
    """The path exists and is no featx store."""


class DamagedStoreError(StoreError):
    """The file is not what was written: truncated, changed, or of a newer format.

    Parameters
    ----------
    message : str
        What people read.
    problems : sequence of str, default=()
        Everything that was found, a line each; by default the message alone.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


class SpaceMismatchError(StoreError):
    """The store holds embeddings of another space; the text shows the fields that differ."""


class DriftError(StoreError):
    """Images of the store, embedded again, do not give the rows that it holds."""


class StoreLockedError(StoreError):
    """Another process is writing this store; the text names it."""


class OverflowStoreError(StoreError):
    """An embedding does not fit the dtype of the store."""


class DatasetError(FeatxError):
    """Labels, classes or splits do not allow what was asked."""


class TrainingError(FeatxError):
    """Fine-tuning diverged: the loss is no number any more."""


class ModelFileError(FeatxError):
    """A model file is damaged, unsafe, or of another version."""


def _either(names: list[str]) -> str:
    """Join names as people do: ``'a', 'b' or 'c'``."""
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
