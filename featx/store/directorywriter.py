"""Writing one shard of a store that is a directory; any number of shards are written at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from featx.errors import NotAStoreError, StoreError
from featx.files import disk_errors, make_directories, remove_temporaries
from featx.records import ImageRecord, LayerInfo, SkippedImage, Space
from featx.sharding import Shard
from featx.store.directory import (
    fingerprint,
    index_path,
    is_directory_store,
    list_parts,
    named_parts,
    require_directory,
    shard_directory,
    shard_index,
)
from featx.store.indexing import PartEntry, join_shards, write_shard_index
from featx.store.parts import part_number
from featx.store.partswriter import PartsWriter
from featx.store.recovery import (
    list_directory,
    open_parts,
    refuse_other_space,
    remove_part_temporaries,
)
from featx.store.schema import IndexRow, digest_rows, root_attributes
from featx.store.storefile import StoreFile
from featx.store.userblock import NewerFormatError

__all__ = ["DirectoryWriter"]


class DirectoryWriter(PartsWriter):
    """Writes one shard of a directory store; see :class:`~featx.store.partswriter.PartsWriter`.

    Rows of every part in the store are used again, whichever shard wrote them. The parts stay where
    they are; :meth:`finish` writes the shard's index, and joins the indexes if it is the last.

    Parameters
    ----------
    shard : Shard
        Which shard this is; ``Shard(0, 1)`` for the whole.
    listing : sequence of ImageRecord
        All images of the source, those of other shards too.
    check : bool, default=False
        Hash the parts that are found. Nothing is copied from them, so that a flipped bit spreads
        nowhere and `verify` finds it; with this it is found now, and its rows are computed again.

    Attributes
    ----------
    missing : list of str
        After :meth:`finish`: what the store still lacks; empty if it is whole.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        space: Space,
        layers: Sequence[LayerInfo],
        *,
        shard: Shard,
        listing: Sequence[ImageRecord],
        check: bool = False,
        **options: Any,
    ) -> None:
        root = Path(os.path.realpath(path))
        super().__init__(
            root,
            space,
            layers,
            locked=shard_index(root, shard),
            parts_directory=shard_directory(root, shard),
            **options,
        )
        self.check = check
        self.shard = shard
        self.listing = listing
        self.missing: list[str] = []
        self._obsolete: list[Path] = []
        self._kept: tuple[LayerInfo, ...] = ()

    def _prepare(self) -> None:
        require_directory(self.path)
        if os.path.lexists(self.path) and not is_directory_store(self.path):
            raise NotAStoreError(
                f"{self.path} holds other files and is no store; choose another output, or an empty directory"
            )
        with disk_errors(self.path):
            make_directories(self.parts_directory)

    def __enter__(self) -> Self:
        try:
            return super().__enter__()
        except BaseException:
            with suppress(OSError):  # it holds something, or was not made
                self.parts_directory.rmdir()
            raise

    def _recover(self) -> None:
        own = shard_index(self.path, self.shard)
        with disk_errors(own):
            remove_temporaries(own)
        entries = list_directory(self.parts_directory)
        remove_part_temporaries(entries)
        self._next_number = 1 + max((part_number(path) or 0 for path in entries), default=0)
        joined = self._look_at(index_path(self.path), is_ours=False)
        mine = self._look_at(own, is_ours=joined is not None)
        self._kept = (mine or joined or _NOTHING).layers
        sources, others = open_parts(
            self._parts_to_use(),
            self.space,
            self.layers,
            check=self.check,
            is_outdated=partial(self._is_outdated, joined),
            notes=self.notes,
        )
        # Rows that the index refers to come first, before others that may have been given up.
        self._index.sources.extend(
            sorted(sources, key=lambda source: source.path not in (mine or _NOTHING).parts)
        )
        self._obsolete += [path for path in others if joined is None or path not in joined.parts]

    def _parts_to_use(self) -> list[Path]:
        """List the parts; what overwrites uses none of the finished store, but of its own unfinished run."""
        finished = _read_index(index_path(self.path)).parts if self.overwrite else frozenset()
        self._obsolete = list(finished)
        return [path for path in list_parts(self.path) if path not in finished]

    def _is_outdated(self, joined: _Found | None, part: Path) -> bool:
        """Whether a part of another space was overwritten, and is not itself what overwrites.

        The former are older than the joined index of this space. One under a name that this index has
        was put there by mistake.
        """
        if self.overwrite or joined is None:
            return self.overwrite
        if part in joined.parts:
            return True
        with disk_errors(part, "read"):
            return part.stat().st_mtime_ns < index_path(self.path).stat().st_mtime_ns

    def finish(
        self, images: Sequence[IndexRow], skipped: Sequence[SkippedImage], provenance: Mapping[str, Any]
    ) -> Path:
        """Write the shard's index, and the store's if no other shard is missing.

        Parameters
        ----------
        images, skipped, provenance
            As for :meth:`featx.store.writer.StoreWriter.finish`, of this shard.

        Returns
        -------
        Path
            The store if it is whole, else the shard's index, which can be read by itself.

        Raises
        ------
        StoreError
            If an image has no row, or the disk fails; parts are kept.
        """
        self.flush()
        digests = digest_rows(images)
        layers, where = self._locate(images, digests, self._kept)
        used = np.unique(np.concatenate([source for source, _ in where.values()])).tolist()
        number_of = np.zeros(len(self._index.sources) + 1, np.int64)
        number_of[used] = np.arange(len(used))
        position = {record.name: place for place, record in enumerate(self.listing)}
        measured = self._with_earlier_seconds(provenance, where)
        attributes = root_attributes(self.space, self.request, self.source, measured)
        target = shard_index(self.path, self.shard)
        write_shard_index(
            target,
            attributes={
                **attributes,
                "shard": str(self.shard).encode(),
                "listing": fingerprint(self.listing).encode(),
            },
            images=images,
            phashes=self._index.phashes_at(where[self.layers[0].name]),
            shapes=self._index.shapes_at([*where.values()]),
            skipped=skipped,
            order=([position[row.record.name] for row in images], [position[item.name] for item in skipped]),
            layers=layers,
            places={
                name: np.stack([number_of[source], row], axis=1) for name, (source, row) in where.items()
            },
            parts=[self._entry(number) for number in used],
            lock=self._lock,
        )
        self.missing = join_shards(self.path, self.shard.count, self._obsolete)
        return target if self.missing else self.path

    def forget(self) -> None:
        """Give up the rows that were found; their parts, which others may use, go when the store is whole."""
        self._obsolete += [source.path for source in self._index.sources]
        self._forget_rows()

    def _entry(self, number: int) -> PartEntry:
        source = self._index.sources[number]
        name = f"{source.path.parent.name}/{source.path.name}"
        with disk_errors(source.path, "read"):
            return PartEntry(name, source.checksum, len(source.digests), source.path.stat().st_size)

    def _look_at(self, path: Path, *, is_ours: bool) -> _Found | None:
        """Read an index of this space, and refuse one of another, unless that is known to be outdated."""
        if not path.is_file():
            return None
        try:
            found = _read_index(path, check=True)
        except NewerFormatError:
            raise
        except StoreError as error:
            self.notes.append(f"{error}; it is made anew, and the rows are found by their parts")
            return None
        if self.overwrite:
            return None
        if found.space is not None and found.space.key != self.space.key:
            if is_ours:
                return None
            refuse_other_space(self.path, found.space, self.space)
        return found


class _Found(NamedTuple):
    space: Space | None = None
    layers: tuple[LayerInfo, ...] = ()
    parts: frozenset[Path] = frozenset()


_NOTHING = _Found()


def _read_index(path: Path, *, check: bool = False) -> _Found:
    """Read what a writer needs of an index; without ``check``, nothing of one that cannot be read."""
    if not path.is_file():
        return _NOTHING
    try:
        file = StoreFile(path, check=check)
    except StoreError:
        if check:
            raise
        return _NOTHING
    try:
        if file.contents.kind != "index":
            return _NOTHING
        return _Found(file.contents.space, file.contents.layers, named_parts(file))
    finally:
        file.close()
