"""Finding what a path means: the file to open, and where the rows of it lie."""

from __future__ import annotations

import os
from pathlib import Path

from featx.errors import NotAStoreError, StoreError
from featx.store.directory import (
    index_path,
    is_directory_store,
    list_parts,
    list_shards,
    shards_of,
    unfinished,
)
from featx.store.partrows import FileRows, PartRows, Rows
from featx.store.recovery import list_file_parts, parts_directory
from featx.store.storefile import StoreFile

__all__ = ["expected_bytes", "find_rows", "store_file"]


def store_file(path: Path) -> Path:
    """Find a store's one file, or the index of a directory.

    Parameters
    ----------
    path : Path
        What the user calls the store.

    Returns
    -------
    Path
        What is to be opened; need not exist.

    Raises
    ------
    StoreError
        If an extraction to it has begun and not ended.
    """
    if not path.is_dir():
        if not os.path.lexists(path):
            _refuse_unfinished_file(path)
        return path
    index = index_path(path)
    if not is_directory_store(path):
        return path
    if index.is_file():
        return index
    if list_shards(path):
        raise unfinished(path)
    return path


def expected_bytes(file: Path) -> int:
    """Say how many bytes a store has, before any of them is believed.

    Parameters
    ----------
    file : Path
        Its one file, or the index of a directory.
    """
    files = [file]
    if file == index_path(file.parent):
        files += list_parts(file.parent)
    return sum(_size(path) for path in files)


def find_rows(path: Path, file: StoreFile) -> Rows:
    """Find the rows of an open store.

    Parameters
    ----------
    path : Path
        What the user calls the store, for messages.
    file : StoreFile
        Its one file, or its index.

    Raises
    ------
    NotAStoreError
        If it is one part of a store.
    DamagedStoreError
        If its parts cannot be told.
    """
    if file.contents.kind == "part":
        raise NotAStoreError(
            f"{path} is one part of a store; open the store that it belongs to, or run its "
            "extraction again to finish it"
        )
    if file.contents.kind != "index":
        return FileRows(file)
    return PartRows(path, shards_of(file), file)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # opening it says why
        return 0


def _refuse_unfinished_file(path: Path) -> None:
    count = len(list_file_parts(path))
    if count:
        raise StoreError(
            f"{path} is not finished: {count} part{'s' * (count > 1)} of it in {parts_directory(path)}; "
            "run the same extraction again, which goes on from there"
        )
