"""What a writer that was killed at its very end left beside a finished store: cleared away without it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from featx.errors import StoreError, StoreLockedError
from featx.files import disk_errors, remove_temporaries
from featx.sharding import Shard
from featx.store.directory import index_path, shard_index
from featx.store.locking import WriterLock
from featx.store.parts import part_number
from featx.store.recovery import list_directory, parts_directory, remove_part_temporaries
from featx.store.rowindex import RowIndex, RowSource

__all__ = ["clear_leftovers", "remove_parts"]


def clear_leftovers(path: Path, shard: Shard | None) -> tuple[str, ...]:
    """Remove locks of the dead, temporary files, and parts of which the store has every row.

    Does nothing where there is nothing, or where a writer is at work.

    Parameters
    ----------
    path : Path
        A finished store.
    shard : Shard or None
        Which shard of a directory; None for a file.

    Returns
    -------
    tuple of str
        What could not be removed: harmless, but people should know.
    """
    targets = [path] if shard is None else [index_path(path), shard_index(path, shard)]
    notes = []
    for target in targets:
        lock = WriterLock(target)
        parts = parts_directory(target)
        if not (lock.path.exists() or (shard is None and parts.is_dir())):
            continue
        try:
            lock.acquire()
            try:
                with disk_errors(target):
                    remove_temporaries(target)
                if shard is None:
                    remove_parts(target, parts)
                else:
                    remove_part_temporaries(list_directory(target.parent))
            finally:
                lock.release()
        except StoreLockedError:
            continue
        except StoreError as error:
            notes.append(f"What an earlier run left was not cleared away: {error}")
    return tuple(notes)


def remove_parts(store: Path, parts: Path) -> None:
    """Remove the parts of which a store has every row, what was put aside, and their directory if it can go.

    Raises
    ------
    StoreError
        If one cannot be read or removed.
    """
    entries = list_directory(parts)
    remove_part_temporaries(entries)
    index = RowIndex([RowSource.open(store, check=False)])
    for path in entries:
        if path.name.endswith(".damaged"):
            with disk_errors(path):
                path.unlink(missing_ok=True)
        if part_number(path) is None:
            continue
        part = RowSource.open(path, check=False)
        same = part.space.key == index.sources[0].space.key
        # A layer that was asked for later may have rows here that the store lacks.
        if same and all((index.locate(layer, part.digests)[0] >= 0).all() for layer in part.regions):
            with disk_errors(path):
                path.unlink(missing_ok=True)
    with suppress(OSError):  # it holds rows that the store does not have
        parts.rmdir()
