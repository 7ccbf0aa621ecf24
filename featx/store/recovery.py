"""What earlier runs left, and whether it may be used: the same space, whole files, the same widths.

A damaged part is put aside and its rows are computed again; embeddings of another space are refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from featx.errors import DamagedStoreError, NotAStoreError, SpaceMismatchError, StoreError
from featx.files import disk_errors
from featx.records import LayerInfo, Space
from featx.store.parts import part_number
from featx.store.rowindex import RowSource
from featx.store.userblock import NewerFormatError

__all__ = [
    "list_directory",
    "list_file_parts",
    "open_parts",
    "parts_directory",
    "refuse_other_space",
    "refuse_other_width",
    "remove_part_temporaries",
]


def open_parts(
    paths: Iterable[Path],
    space: Space,
    layers: Sequence[LayerInfo],
    *,
    check: bool,
    is_outdated: Callable[[Path], bool],
    notes: list[str],
) -> tuple[list[RowSource], list[Path]]:
    """Open the parts whose rows can be used.

    Parameters
    ----------
    paths : iterable of Path
        Parts; what is no part by its name is passed over.
    space, layers : Space, sequence of LayerInfo
        What the rows must be.
    check : bool
        Hash every byte first.
    is_outdated : callable
        Asked of a part of another space: whether it is passed over instead of being refused.
    notes : list of str
        Gets a line for each part that is put aside.

    Returns
    -------
    sources : list of RowSource
        In the order of ``paths``.
    others : list of Path
        Parts of another space that were passed over.

    Raises
    ------
    SpaceMismatchError
        If one holds embeddings of another space.
    NewerFormatError
        If one was written by a newer featx; nothing is wrong with it.
    """
    sources: list[RowSource] = []
    others: list[Path] = []
    for path in paths:
        if part_number(path) is None:
            continue
        try:
            found = RowSource.open(path, check=check)
        except NewerFormatError:
            raise
        except (DamagedStoreError, NotAStoreError) as error:
            _put_aside(path, error, notes)
            continue
        except StoreError:
            if not os.path.lexists(path):  # another shard of the store removed it meanwhile
                continue
            raise
        if found.space.key != space.key and is_outdated(path):
            others.append(path)
            continue
        refuse_other_space(path, found.space, space)
        refuse_other_width(found, layers)
        sources.append(found)
    return sources, others


def list_directory(directory: Path) -> list[Path]:
    """List a directory in the order of its names; empty if there is none."""
    if not os.path.lexists(directory):
        return []
    with disk_errors(directory, "read"):
        return sorted(directory.iterdir())


def parts_directory(store: Path) -> Path:
    """Name the directory in which the parts of a store of one file lie until it is finished."""
    return store.with_name(f"{store.name}.parts")


def list_file_parts(store: Path) -> list[Path]:
    """List the parts of a store of one file; those of a directory, see ``directory.list_parts``."""
    return [path for path in list_directory(parts_directory(store)) if part_number(path) is not None]


def remove_part_temporaries(entries: Iterable[Path]) -> None:
    """Remove what a killed writer left of a part in flight (only under the lock of its directory)."""
    for path in entries:
        if path.name.startswith("part-") and path.name.endswith(".tmp"):
            with disk_errors(path):
                path.unlink()


def refuse_other_space(path: Path, theirs: Space, ours: Space) -> None:
    """Refuse to mix embeddings.

    Raises
    ------
    SpaceMismatchError
        Showing both values of each field that differs, and the ways on.
    """
    differences = theirs.differences(ours)
    if not differences:
        return
    if "backbone" in differences:  # the other differences follow from this one
        differences = {"backbone": differences["backbone"]}
    fields = "; ".join(
        f"{name} is {_short(there)} there and {_short(now)} now" for name, (there, now) in differences.items()
    )
    raise SpaceMismatchError(
        f"{path} holds embeddings of another space: {fields}; choose another output, or replace it "
        "with --overwrite"
    )


def refuse_other_width(found: RowSource, layers: Iterable[LayerInfo]) -> None:
    """Refuse a layer whose rows there have another number of dimensions.

    Raises
    ------
    SpaceMismatchError
        Naming both.
    """
    for layer in layers:
        region = found.regions.get(layer.name)
        if region is not None and region.layer.dim != layer.dim:
            raise SpaceMismatchError(
                f"{found.path} holds layer {layer.name!r} with {region.layer.dim} dimensions, got "
                f"{layer.dim}; choose another output, or replace it with --overwrite"
            )


def _put_aside(path: Path, error: StoreError, notes: list[str]) -> None:
    notes.append(f"{error}; it is not used and its rows are computed again")
    with disk_errors(path):
        try:
            path.rename(path.with_name(f"{path.name}.damaged"))
        except FileNotFoundError:  # another shard of the store was faster
            return


def _short(value: Any) -> str:
    """Write a value; of a digest the beginning."""
    is_digest = isinstance(value, str) and len(value) == 64
    return f"{value[:12]}…" if is_digest else repr(value)
