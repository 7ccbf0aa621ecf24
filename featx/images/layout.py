"""What the folders above an image say: its class, its split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from featx.errors import SourceError
from featx.records import escape_name

__all__ = ["OF_MACOS", "SIDECARS", "SPLIT_FOLDERS", "Layout", "is_listed", "is_sidecar"]

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names that mean a split, in lower case."""

# fmt: off
SIDECARS = frozenset({
    ".bib", ".cfg", ".csv", ".db", ".featx", ".gz", ".h5", ".htm", ".html", ".ini", ".ipynb", ".json",
    ".jsonl", ".lock", ".log", ".mat", ".md", ".npy", ".npz", ".parquet", ".part", ".pdf", ".pkl", ".pth",
    ".py", ".rst", ".safetensors", ".sh", ".tar", ".tmp", ".toml", ".tsv", ".txt", ".xls", ".xlsx",
    ".xml", ".yaml", ".yml", ".zip",
})
# fmt: on
"""Files of these endings lie beside images and are no images; everything else is tried."""


OF_MACOS = "__MACOSX"
"""Folder in which macOS keeps what is no content, in what it packs."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the folders of a source are meant, wherever they lie: on a disk, in an archive, in a bucket.

    Parameters
    ----------
    kind : {"class folders", "split folders", "flat folder"}
    depth : int, default=0
        Folders at the head of every name that say nothing.

    Examples
    --------
    >>> layout = Layout.of(["train", "test"], "photos")
    >>> layout.kind, layout.place("train/ants/1.jpg"), layout.place("readme.jpg")
    ('split folders', ('ants', 'train'), (None, None))
    >>> Layout.of(["ants", "bees"], "photos").place("ants/old/1.jpg")
    ('ants', None)
    """

    kind: Literal["class folders", "split folders", "flat folder"]
    depth: int = 0

    @classmethod
    def of(cls, folders: Sequence[str], source: str, depth: int = 0) -> Layout:
        """Recognise a layout.

        Parameters
        ----------
        folders : sequence of str
            Names of the folders at the top.
        source : str
            What an error calls the source.
        depth : int, default=0
            Folders above that top.

        Raises
        ------
        SourceError
            If splits and classes stand side by side, or two folders mean one split.
        """
        splits = [name for name in folders if name.lower() in SPLIT_FOLDERS]
        if splits and len(splits) == len(folders):
            twice = {SPLIT_FOLDERS[name.lower()] for name in splits}
            if len(twice) < len(splits):
                raise SourceError(
                    f"{escape_name(source)} has several folders of one split ({', '.join(splits)}); keep one"
                )
            return cls("split folders", depth)
        if len(splits) > 1 or {name.lower() for name in splits} & {"train", "test"}:
            extra = [escape_name(name) for name in folders if name not in splits]
            raise SourceError(
                f"{escape_name(source)} has folders of splits ({', '.join(splits)}) and others that are no "
                f"splits ({', '.join(extra[:5])}); expected only train, val and test there: move the others "
                "away, or rename a class of that name"
            )
        return cls("class folders" if folders else "flat folder", depth)

    def place(self, name: str) -> tuple[str | None, str | None]:
        """Give label and split of an image by its name, ``/``-separated."""
        folders = name.split("/")[self.depth : -1]
        split = None
        if self.kind == "split folders" and folders:
            split = SPLIT_FOLDERS[folders.pop(0).lower()]
        return (folders[0] if folders else None), split


def is_sidecar(name: str) -> bool:
    """Whether the ending of a file says that it is no image."""
    return os.path.splitext(name)[1].lower() in SIDECARS  # noqa: PTH122 - a million of them


def is_listed(name: str) -> bool:
    """Whether a file may be an image by its name: neither hidden nor of an ending that says it is none.

    Examples
    --------
    >>> [is_listed(name) for name in ("ants/1.jpg", "ants/.1.jpg", "__MACOSX/ants/1.jpg", "ants/a.txt")]
    [True, False, False, False]
    """
    if any(part.startswith(".") or part == OF_MACOS for part in name.split("/")):
        return False
    return not is_sidecar(name)
