"""Parts: finished rows on disk, keyed by the image's digest, and how rows are found again.

A part is written once, whole, and never changes. Rows of a finished store and of parts are looked
up alike: :class:`RowIndex` says which file and row holds the embedding of a digest, and
:func:`gather` streams rows in any order in bounded memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from featx.files import disk_errors
from featx.records import LayerInfo, Space
from featx.store.checking import Region
from featx.store.schema import DIGEST_SIZE, check_layers, root_attributes
from featx.store.skeleton import write_file
from featx.store.storefile import StoreFile

__all__ = ["RowIndex", "RowSource", "gather", "part_number", "write_part"]

_BLOCK = 8 << 20
_OPEN_FILES = 32

Features = Mapping[str, "NDArray[Any] | Sequence[NDArray[Any]]"]


def write_part(
    directory: Path,
    digests: NDArray[np.uint8],
    phashes: NDArray[np.uint64],
    features: Features,
    space: Space,
    layers: Sequence[LayerInfo],
    *,
    request: Mapping[str, Any] | None = None,
    source: str = "",
    seconds: float = 0.0,
    number: int = 0,
) -> Path:
    """Write one immutable part.

    Parameters
    ----------
    directory : Path
        Where parts lie; must exist.
    digests : ndarray of shape (k, 32), uint8
        SHA-256 of the encoded bytes of each image.
    phashes : ndarray of shape (k,), uint64
        Perceptual hashes.
    features : mapping of str to ndarray or sequence of ndarray
        By layer name, (k, dim) in one array or in several that follow each other, in the dtype of
        the space.
    space : Space
        What the embeddings are.
    layers : sequence of LayerInfo
        The layers of ``features``.
    request, source : mapping, str
        Kept as provenance.
    seconds : float
        Wall time that the rows took.
    number : int
        Parts sort by it.

    Returns
    -------
    Path
        ``part-<number>-<uuid>.h5``.

    Raises
    ------
    StoreError
        If the part cannot be written; nothing of it is left.
    """
    check_layers(layers)
    path = directory / f"part-{number:06d}-{uuid4().hex}.h5"

    def blocks(layer: LayerInfo) -> Iterable[NDArray[Any]]:
        values = features[layer.name]
        return [values] if isinstance(values, np.ndarray) else values

    write_file(
        path,
        attributes=root_attributes(space, request or {}, source, {"seconds": seconds}),
        tables={"rows": {"digest": np.asarray(digests, np.uint8), "phash": np.asarray(phashes, "<u8")}},
        layers=layers,
        rows=len(digests),
        dtype=np.dtype(space.store_dtype).newbyteorder("<"),
        blocks=blocks,
    )
    return path


def part_number(path: Path) -> int | None:
    """Return the number of a part, None for any other file.

    Examples
    --------
    >>> part_number(Path("part-000007-0a1b.h5"))
    7
    >>> part_number(Path("notes.txt")) is None
    True
    """
    pieces = path.name.split("-")
    if len(pieces) != 3 or pieces[0] != "part" or not pieces[1].isdecimal() or not path.name.endswith(".h5"):
        return None
    return int(pieces[1])


@dataclass(frozen=True, slots=True)
class RowSource:
    """A file that holds rows, and the little that must be in memory to find them.

    ``digests`` (k, 32) uint8 and ``phashes`` (k,) uint64 are 40 bytes a row; ``regions`` are by
    layer name; ``seconds`` is what its rows took.
    """

    path: Path
    space: Space
    digests: NDArray[np.uint8]
    phashes: NDArray[np.uint64]
    regions: Mapping[str, Region]
    seconds: float

    @classmethod
    def open(cls, path: Path, *, check: bool) -> RowSource:
        """Read a store or a part; with ``check``, every byte of it is hashed first.

        Raises
        ------
        StoreError
            As :class:`~featx.store.storefile.StoreFile`.
        """
        file = StoreFile(path, check=check)
        try:
            contents = file.contents
            group = "rows" if contents.kind == "part" else "images"
            return cls(
                path,
                contents.space,
                file.read(f"{group}/digest"),
                file.read(f"{group}/phash"),
                {region.layer.name: region for region in contents.regions},
                float(contents.meta["seconds"]),
            )
        finally:
            file.close()


@dataclass(slots=True)
class RowIndex:
    """Which source and which row holds the embedding of a digest, layer by layer."""

    sources: list[RowSource] = field(default_factory=list)

    def known(self, layers: Iterable[str]) -> set[bytes]:
        """Digests that have a row for every one of the layers."""
        common: NDArray[np.bytes_] | None = None
        for layer in layers:
            keys = np.unique(self._keys(layer)[0])
            common = keys if common is None else np.intersect1d(common, keys, assume_unique=True)
        data = b"" if common is None else common.tobytes()
        return {data[start : start + DIGEST_SIZE] for start in range(0, len(data), DIGEST_SIZE)}

    def locate(self, layer: str, digests: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
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
        wanted = _as_keys(digests)
        found = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
        hit = keys[found] == wanted
        return np.where(hit, source[found], np.int32(-1)).astype(np.int32), np.where(hit, row[found], 0)

    def _keys(self, layer: str) -> tuple[NDArray[np.bytes_], NDArray[np.int32], NDArray[np.int64]]:
        having = [(number, source) for number, source in enumerate(self.sources) if layer in source.regions]
        if not having:
            return np.empty(0, f"S{DIGEST_SIZE}"), np.empty(0, np.int32), np.empty(0, np.int64)
        return (
            np.concatenate([_as_keys(source.digests) for _, source in having]),
            np.concatenate([np.full(len(source.digests), number, np.int32) for number, source in having]),
            np.concatenate([np.arange(len(source.digests)) for _, source in having]),
        )


def _as_keys(digests: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    # Fixed-width bytes compare zero-padded, so digests that end in zeros stay themselves.
    return np.ascontiguousarray(digests).view(f"S{DIGEST_SIZE}").reshape(-1)


def gather(
    files: OpenFiles,
    sources: Sequence[RowSource],
    layer: LayerInfo,
    source: NDArray[np.int32],
    row: NDArray[np.int64],
    block_bytes: int = _BLOCK,
) -> Iterator[NDArray[Any]]:
    """Read rows from several files in the order given, a bounded block at a time.

    Rows that follow each other in one file are read at once.

    Parameters
    ----------
    files : OpenFiles
        Keeps a bounded number of the sources open.
    sources : sequence of RowSource
        Where the rows lie.
    layer : LayerInfo
        The layer to read.
    source, row : ndarray of shape (n,)
        As :meth:`RowIndex.locate` gives them.

    Yields
    ------
    ndarray of shape (k, dim)
        In the stored dtype.
    """
    any_region = next(s.regions[layer.name] for s in sources if layer.name in s.regions)
    step = max(1, block_bytes // any_region.row_bytes)
    for start in range(0, len(row), step):
        from_, at = source[start : start + step], row[start : start + step]
        block = np.empty((len(at), layer.dim), any_region.dtype)
        breaks = np.flatnonzero((np.diff(from_) != 0) | (np.diff(at) != 1)) + 1
        edges = [0, *breaks.tolist(), len(at)]
        for first, last in pairwise(edges):
            holder = sources[from_[first]]
            with disk_errors(holder.path, "read"):
                region = holder.regions[layer.name]
                region.read_into(files.get(holder.path), holder.path, int(at[first]), block[first:last])
        yield block


class OpenFiles:
    """At most some dozens of files, kept open for reading; a run of days leaves more parts than that."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, Any] = OrderedDict()

    def get(self, path: Path) -> Any:
        """Give the open file, opening it if need be."""
        if path in self._files:
            self._files.move_to_end(path)
        else:
            if len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[path] = path.open("rb", buffering=0)
        return self._files[path]

    def close(self) -> None:
        """Close all of them."""
        while self._files:
            self._files.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
