"""A store that is a directory: where its files lie, and what tells that all of them belong together.

::

    photos/
      index.h5                     names, labels, and which row of which part belongs to which image
      shards/0-of-2/index.h5       the same for the images of one shard
      shards/0-of-2/part-*.h5      rows; written once, never changed
      shards/1-of-2/…

Each shard has one writer. The writer that finishes last joins the indexes of the shards to that of
the store; until then readers see the store as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from featx.errors import NotAStoreError, StoreError
from featx.records import ImageRecord
from featx.sharding import Shard
from featx.store.recovery import list_directory
from featx.store.storefile import StoreFile

__all__ = [
    "fingerprint",
    "index_path",
    "is_directory_store",
    "list_parts",
    "list_shards",
    "named_parts",
    "part_path",
    "require_directory",
    "shard_directory",
    "shard_index",
    "shards_of",
    "tell_shards",
    "unfinished",
]

_SHARD = re.compile(r"(\d+)-of-(\d+)")
_PART = re.compile(r"\d+-of-\d+/part-\d{6,}-[0-9a-f]{32}\.h5")


def index_path(root: Path) -> Path:
    """Name the file that makes a directory a store."""
    return root / "index.h5"


def shard_directory(root: Path, shard: Shard) -> Path:
    """Where one shard's writer writes."""
    return root / "shards" / f"{shard.number}-of-{shard.count}"


def shard_index(root: Path, shard: Shard) -> Path:
    """Name the index of one shard."""
    return index_path(shard_directory(root, shard))


def is_directory_store(path: Path) -> bool:
    """Whether a directory is a store, finished or not, or about to become one.

    Raises
    ------
    NotAStoreError
        If its index is something else.
    """
    if not path.is_dir():
        return False
    index = index_path(path)
    if index.is_file():
        try:
            file = StoreFile(index)
        except NotAStoreError:
            raise
        except StoreError:  # ours, as its first bytes say
            return True
        file.close()
        return file.contents.kind == "index"
    shards = path / "shards"
    return bool(list_shards(path)) or not (_visible(path) - {"shards"} or _visible(shards))


def list_shards(root: Path) -> list[Shard]:
    """List the shards that have a directory."""
    matches = [_SHARD.fullmatch(entry.name) for entry in list_directory(root / "shards")]
    return sorted(
        (Shard(int(match[1]), int(match[2])) for match in matches if match and int(match[1]) < int(match[2])),
        key=lambda shard: (shard.count, shard.number),
    )


def list_parts(root: Path) -> list[Path]:
    """List the parts of all shards."""
    return [
        path
        for shard in list_shards(root)
        for path in list_directory(shard_directory(root, shard))
        if _PART.fullmatch(f"{path.parent.name}/{path.name}")
    ]


def part_path(shards: Path, name: str) -> Path:
    """Find a part by the name that an index has for it.

    Parameters
    ----------
    shards : Path
        The directory ``shards`` of the store.
    name : str
        Such as ``0-of-2/part-000001-….h5``.

    Raises
    ------
    StoreError
        If the name leads anywhere else.
    """
    if not _PART.fullmatch(name):
        raise StoreError(f"{shards.parent} is refused: {name!r} is no name of a part; it is damaged")
    return shards / name


def shards_of(index: StoreFile) -> Path:
    """Find the directory ``shards`` of the store that an index belongs to."""
    folder = Path(os.path.realpath(index.path)).parent
    # The index of a shard lies in shards/I-of-N, beside the other shards.
    return folder.parent if "shard" in index.contents.meta else folder / "shards"


def named_parts(index: StoreFile) -> frozenset[Path]:
    """Give the parts that an index refers to."""
    shards = shards_of(index)
    return frozenset(part_path(shards, str(name)) for name in index.read_text("parts/name"))


def require_directory(path: Path) -> None:
    """Refuse a file where a store of shards is to be.

    Raises
    ------
    NotAStoreError
        If something lies there that is no directory.
    """
    if os.path.lexists(path) and not path.is_dir():
        raise NotAStoreError(
            f"{path} exists and is no directory, which a store of shards is; choose another output"
        )


def fingerprint(records: Iterable[ImageRecord]) -> str:
    """SHA-256 of all that a source lists, so that shards know whether they saw the same listing.

    Without the times of change, which machines with copies of their own do not share.

    Examples
    --------
    >>> fingerprint([ImageRecord("a.jpg")]) == fingerprint([ImageRecord("a.jpg", label="ant")])
    False
    """
    digest = hashlib.sha256()
    encode = json.JSONEncoder(sort_keys=True).encode  # json.dumps would make one for each image
    for record in records:
        fields = [record.name, record.label, record.split, record.group, record.size]
        digest.update(encode([*fields, dict(record.columns)]).encode())
    return digest.hexdigest()


def unfinished(root: Path, missing: Sequence[str] = ()) -> StoreError:
    """Say that a directory store has no index yet, and what would give it one."""
    if not missing:
        missing = _missing_shards(root)
    what = "; ".join(missing) if missing else "its shards are there, but not joined"
    return StoreError(
        f"{root} is not finished: {what}; run the same extraction for every shard of it (--shard I/N)"
    )


def tell_shards(root: Path) -> tuple[tuple[Shard, ...], tuple[Shard, ...], tuple[Shard, ...]]:
    """Tell shards with an index, without one, and without anything apart.

    The last are of the number of shards of which most are there.
    """
    there = list_shards(root)
    done = tuple(shard for shard in there if shard_index(root, shard).is_file())
    begun = tuple(shard for shard in there if shard not in done)
    count = _usual_count(done or begun) if there else 0
    missing = (Shard(number, count) for number in range(count))
    return done, begun, tuple(shard for shard in missing if shard not in there)


def _missing_shards(root: Path) -> list[str]:
    """Name the shards without an index, of the number of shards of which most are there."""
    done, begun, missing = tell_shards(root)
    if not done and not begun:
        return ["no shard was extracted"]
    count = _usual_count(done or begun)
    without = sorted((*begun, *missing), key=lambda shard: shard.number)
    return [f"shard {shard} is missing" for shard in without if shard.count == count]


def _usual_count(shards: Sequence[Shard]) -> int:
    return Counter(shard.count for shard in shards).most_common(1)[0][0]


def _visible(directory: Path) -> set[str]:
    return {entry.name for entry in list_directory(directory) if not entry.name.startswith(".")}
