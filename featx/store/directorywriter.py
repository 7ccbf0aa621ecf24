"""Writing one shard of a store that is a directory; any number of shards are written at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    part_path,
    shard_directory,
    shard_index,
)
from featx.store.indexing import PartEntry, join_shards, write_shard_index
from featx.store.locking import WriterLock
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
        super().__init__(Path(os.path.realpath(path)), space, layers, **options)
        self.check = check
        self.shard = shard
        self.listing = listing
        self.missing: list[str] = []
        self._writer_lock = WriterLock(shard_index(self.path, shard))
        self._obsolete: list[Path] = []
        self._kept: tuple[LayerInfo, ...] = ()

    @property
    def parts_directory(self) -> Path:
        """``STORE/shards/I-of-N``."""
        return shard_directory(self.path, self.shard)

    @property
    def _lock(self) -> WriterLock:
        return self._writer_lock

    def _prepare(self) -> None:
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise NotAStoreError(
                f"{self.path} exists and is no directory, which a store of shards is; choose another output"
            )
        if os.path.lexists(self.path) and not is_directory_store(self.path):
            raise NotAStoreError(
                f"{self.path} holds other files and is no store; choose another output, or an empty directory"
            )
        make_directories(self.parts_directory)

    def _recover(self) -> None:
        own = shard_index(self.path, self.shard)
        with disk_errors(own):
            remove_temporaries(own)
        entries = list_directory(self.parts_directory)
        remove_part_temporaries(entries)
        self._next_number = 1 + max((part_number(path) or 0 for path in entries), default=0)
        is_ours = False
        for path in (index_path(self.path), own):
            is_ours = self._look_at(path) or is_ours
        # What overwrites uses no row of the finished store, but those of its own unfinished run.
        finished = self._finished_parts() if self.overwrite else set()
        # Where an index is of this space, parts of another one are what an overwrite has left.
        options: dict[str, Any] = {"check": self.check, "overwrite": self.overwrite or is_ours}
        paths = [path for path in list_parts(self.path) if path not in finished]
        sources, _ = open_parts(paths, self.space, self.layers, notes=self.notes, **options)
        self._index.sources.extend(sources)
        self._obsolete = list(finished)

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
        attributes = root_attributes(self.space, self.request, self.source, provenance)
        target = shard_index(self.path, self.shard)
        write_shard_index(
            target,
            attributes={
                **attributes,
                "shard": str(self.shard).encode(),
                "listing": fingerprint(self.listing).encode(),
            },
            images=images,
            phashes=self._phashes_at(where[self.layers[0].name]),
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

    def _finished_parts(self) -> set[Path]:
        index = index_path(self.path)
        if not index.is_file():
            return set()
        try:
            file = StoreFile(index)
        except StoreError:  # of which `_look_at` has told
            return set()
        try:
            return {part_path(self.path / "shards", str(name)) for name in file.read_text("parts/name")}
        finally:
            file.close()

    def _entry(self, number: int) -> PartEntry:
        source = self._index.sources[number]
        name = f"{source.path.parent.name}/{source.path.name}"
        with disk_errors(source.path, "read"):
            return PartEntry(name, source.checksum, len(source.digests), source.path.stat().st_size)

    def _look_at(self, path: Path) -> bool:
        """Refuse an index of another space; remember its layers, which are kept where they can be."""
        if not path.is_file():
            return False
        try:
            file = StoreFile(path, check=True)
        except NewerFormatError:
            raise
        except StoreError as error:
            self.notes.append(f"{error}; it is made anew, and the rows are found by their parts")
            return False
        try:
            if self.overwrite:
                return False
            refuse_other_space(self.path, file.contents.space, self.space)
            self._kept = file.contents.layers
            return True
        finally:
            file.close()
