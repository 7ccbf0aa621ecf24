"""Where rows lie: which file and which row holds the embedding of a digest.

Rows of a finished store and of parts are looked up alike. In memory are 56 bytes a row and file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.records import Space
from featx.store.checking import Region
from featx.store.digests import DigestSet
from featx.store.parts import part_number
from featx.store.schema import DIGEST_SIZE
from featx.store.shapes import Shapes
from featx.store.storefile import StoreFile
from featx.store.userblock import PART_REMEDY, REMEDY

__all__ = ["Places", "RowIndex", "RowSource", "as_keys"]

Places = tuple[NDArray[np.int32], NDArray[np.int64]]
"""For each image, the number of the source and the row in it, as :meth:`RowIndex.locate` gives them."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """A file that holds rows, and the little that must be in memory to find them.

    ``digests`` (k, 32) uint8, ``phashes`` (k,) uint64 and ``shapes`` are 56 bytes a row; ``regions``
    are by layer name; ``seconds`` is what its rows took, ``versions`` what they were computed with,
    and ``checksum`` the SHA-256 in the file's user block.
    """

    path: Path
    space: Space
    digests: NDArray[np.uint8]
    phashes: NDArray[np.uint64]
    shapes: Shapes
    regions: Mapping[str, Region]
    seconds: float
    versions: Mapping[str, str]
    checksum: bytes

    @classmethod
    def open(cls, path: Path, *, check: bool, remedy: str = "") -> RowSource:
        """Read a store or a part; with ``check``, every byte of it is hashed first.

        ``remedy`` is what the error of a damaged file says to do.

        Raises
        ------
        StoreError
            As :class:`~featx.store.storefile.StoreFile`.
        """
        usual = REMEDY if part_number(path) is None else PART_REMEDY
        file = StoreFile(path, check=check, remedy=remedy or usual)
        try:
            contents = file.contents
            group = "rows" if contents.kind == "part" else "images"
            with file.h5():
                digests, phashes = file.read(f"{group}/digest"), file.read(f"{group}/phash")
                shapes = file.read_shapes(group)
            return cls(
                path,
                contents.space,
                digests,
                phashes,
                shapes,
                {region.layer.name: region for region in contents.regions},
                float(contents.meta["seconds"]),
                _versions(contents.meta["request"]),
                file.header.digest,
            )
        finally:
            file.close()


@dataclass(slots=True)
class RowIndex:
    """Which source and which row holds the embedding of a digest, layer by layer."""

    sources: list[RowSource] = field(default_factory=list)

    def known(self, layers: Iterable[str]) -> DigestSet:
        """Digests that have a row for every one of the layers."""
        common: NDArray[np.bytes_] | None = None
        for layer in layers:
            keys = np.unique(self._keys(layer)[0])
            common = keys if common is None else np.intersect1d(common, keys, assume_unique=True)
        data = b"" if common is None else common.tobytes()
        return DigestSet(data[start : start + DIGEST_SIZE] for start in range(0, len(data), DIGEST_SIZE))

    def locate(self, layer: str, digests: NDArray[np.uint8]) -> Places:
        """Find rows.

        Parameters
        ----------
        layer : str
            ``NODE:POOL``.
        digests : ndarray of shape (n, 32), uint8
            In any order, with repetitions.

        Returns
        -------
        source : ndarray of shape (n,), int32
            Index into :attr:`sources`, -1 where there is no row.
        row : ndarray of shape (n,), int64
            Row in that source.
        """
        keys, source, row = self._keys(layer)
        if not len(keys):
            return np.full(len(digests), -1, np.int32), np.zeros(len(digests), np.int64)
        order = np.argsort(keys, kind="stable")
        wanted = as_keys(digests)
        found = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
        hit = keys[found] == wanted
        return np.where(hit, source[found], np.int32(-1)).astype(np.int32), np.where(hit, row[found], 0)

    def phashes_at(self, where: Places) -> NDArray[np.uint64]:
        """Perceptual hashes of images that all have a row; shape (n,)."""
        phashes = np.zeros(len(where[1]), np.uint64)
        for source, images, rows in self._by_source(where):
            phashes[images] = source.phashes[rows]
        return phashes

    def shapes_at(self, where: Sequence[Places]) -> Shapes:
        """Sizes and modes of images that all have a row in each of several places, such as those of layers.

        Where one row is too old to know them, another may.
        """
        shapes = Shapes.of(len(where[0][1]))
        for places in where:
            for source, images, rows in self._by_source(places):
                unknown = shapes.widths[images] == 0
                for column, known in zip(shapes, source.shapes, strict=True):
                    column[images[unknown]] = known[rows[unknown]]
        return shapes

    def _by_source(self, where: Places) -> Iterator[tuple[RowSource, NDArray[np.int64], NDArray[np.int64]]]:
        """Go through the sources: each with the images whose row it has, and those rows."""
        from_, at = where
        order = np.argsort(from_, kind="stable")
        numbers = np.arange(len(self.sources) + 1, dtype=from_.dtype)
        edges = np.searchsorted(from_, numbers, sorter=order).tolist()
        for source, start, stop in zip(self.sources, edges[:-1], edges[1:], strict=True):
            yield source, order[start:stop], at[order[start:stop]]

    def _keys(self, layer: str) -> tuple[NDArray[np.bytes_], NDArray[np.int32], NDArray[np.int64]]:
        having = [(number, source) for number, source in enumerate(self.sources) if layer in source.regions]
        if not having:
            return np.empty(0, f"S{DIGEST_SIZE}"), np.empty(0, np.int32), np.empty(0, np.int64)
        return (
            np.concatenate([as_keys(source.digests) for _, source in having]),
            np.concatenate([np.full(len(source.digests), number, np.int32) for number, source in having]),
            np.concatenate([np.arange(len(source.digests)) for _, source in having]),
        )


def as_keys(digests: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Give digests (n, 32) as values that can be sorted and compared; shape (n,)."""
    # Fixed-width bytes compare zero-padded, so digests that end in zeros stay themselves.
    return np.ascontiguousarray(digests).view(f"S{DIGEST_SIZE}").reshape(-1)


def _versions(request: Mapping[str, object]) -> Mapping[str, str]:
    versions = request.get("versions")
    if not isinstance(versions, Mapping):
        return {}
    return {str(name): str(version) for name, version in versions.items()}
