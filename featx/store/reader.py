"""Reading a store: labels and names as arrays, embeddings as memory maps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featx.errors import DamagedStoreError, NotAStoreError, StoreError, UnknownNameError
from featx.records import LayerInfo, ProgressCallback, Space
from featx.store.directory import index_path, is_directory_store, list_shards, unfinished
from featx.store.imageindex import ImageIndex
from featx.store.partrows import FileRows, PartRows, Rows
from featx.store.parts import part_number
from featx.store.recovery import list_directory
from featx.store.storefile import StoreFile, count_bytes

__all__ = ["FeatureStore"]


class FeatureStore(ImageIndex):
    """The embeddings of one image set in one space, opened for reading.

    Opening reads the user block and walks the structure; the index and the embeddings are read when
    they are asked for. Rows are in the same order everywhere. A store that is replaced while it is
    open stays what it was; of a directory that is overwritten, rows that were not read may be gone,
    which is an error then.

    Parameters
    ----------
    path : Path or str
        The store: a file, or a directory of many parts.
    check : bool, default=False
        Hash every byte of the file (of a directory, its index) before HDF5 sees one: for files from
        elsewhere. :meth:`verify` checks more.
    on_progress : callable, optional
        Called with a :class:`featx.records.Progress` in bytes while that is done.

    Attributes
    ----------
    space : Space
        What the embeddings are.
    layers : tuple of LayerInfo
        In the order in which they were asked for.
    meta : dict
        The attributes of the file: ``featx_format``, ``featx_version``, ``space`` and ``request``
        (parsed), ``space_key``, ``source``, ``created`` (ISO 8601, UTC), ``seconds``,
        ``peak_memory_bytes``.

    Raises
    ------
    StoreError
        If there is no such file, or it cannot be read.
    NotAStoreError
        If it is something else.
    DamagedStoreError
        If it is truncated, of a newer format, or holds what has no place in a store.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mine.h5"
    >>> store = FeatureStore.from_arrays(path, np.eye(3, dtype=np.float32), ["ant", "bee", None])
    >>> store.X("imported").shape, store.y.tolist()
    ((3, 3), ['ant', 'bee', ''])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        check: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self.path = Path(path)
        file = _file_of(self.path)
        super().__init__(StoreFile(file, check=check, on_bytes=count_bytes(file, on_progress)))
        contents = self._file.contents
        if contents.kind == "part":
            self._file.close()
            raise NotAStoreError(
                f"{self.path} is one part of a store; open the store that it belongs to, or run its "
                "extraction again to finish it"
            )
        self._rows: Rows = FileRows(self._file)
        if contents.kind == "index":
            folder = Path(os.path.realpath(self._file.path)).parent
            # The index of a shard lies in shards/I-of-N, beside the other shards.
            shards = folder.parent if "shard" in contents.meta else folder / "shards"
            self._rows = PartRows(self.path, shards, self._file)
        self.space: Space = contents.space
        self.meta: dict[str, Any] = dict(contents.meta)
        self.layers: tuple[LayerInfo, ...] = contents.layers
        self.summary: Any = None
        """What the run that returned this store did, set by that run."""

    def close(self) -> None:
        """Close the file; arrays that were read stay valid."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        layers = ", ".join(f"{layer.name} ({layer.dim})" for layer in self.layers)
        return f"<FeatureStore {self.path}: {len(self)} images, {self.space.backbone}, {layers}>"

    @property
    def nbytes(self) -> int:
        """Size on disk in bytes, with all parts of a directory."""
        parts = int(self._rows.sizes.sum()) if isinstance(self._rows, PartRows) else 0
        return self._file.size + parts

    @property
    def n_parts(self) -> int:
        """Number of parts of a directory; 0 for one file."""
        return len(self._rows.names) if isinstance(self._rows, PartRows) else 0

    def layer(self, layer: str) -> LayerInfo:
        """Find a layer by ``NODE:POOL``, or by ``NODE`` if it has one pooling only.

        Raises
        ------
        UnknownNameError
            Listing the names that there are.
        """
        matches = [info for info in self.layers if info.name == layer]
        matches = matches or [info for info in self.layers if info.node == layer]
        if len(matches) == 1:
            return matches[0]
        known = [info.name for info in (matches or self.layers)]
        hint = (
            f"It is pooled in {len(matches)} ways; name one." if matches else f"{self.path} has these layers."
        )
        raise UnknownNameError("layer", layer, known, hint)

    def X(self, layer: str) -> NDArray[Any]:
        """Embeddings of one layer.

        Parameters
        ----------
        layer : str
            ``NODE:POOL``, or ``NODE`` if it has one pooling only.

        Returns
        -------
        ndarray of shape (n, dim), float16 or float32
            A read-only :class:`numpy.memmap` where the rows lie in one piece, as they do in a store of
            one file; else (a directory of several parts, or no images) an array in memory.

        Raises
        ------
        UnknownNameError
            If there is no such layer, or several.
        """
        return self._rows.all(self.layer(layer))

    def take(self, layer: str, index: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Read some rows of one layer, for batches of a store that is larger than memory.

        Parameters
        ----------
        layer : str
            As for :meth:`X`.
        index : sequence of int of length k
            Rows in any order, with repetitions; negative ones count from the end.

        Returns
        -------
        ndarray of shape (k, dim), float16 or float32
            A copy in memory.

        Raises
        ------
        IndexError
            If there is no such row.
        """
        rows = np.asarray(index, np.int64)
        outside = (rows < -len(self)) | (rows >= len(self))
        if outside.any():
            raise IndexError(f"row {int(rows[outside][0])} was asked for; {self.path} has {len(self)}")
        return self._rows.take(self.layer(layer), rows % max(1, len(self)))

    def blocks(self, layer: str, rows: int = 1024) -> Iterator[NDArray[Any]]:
        """Read one layer top to bottom, a bounded number of rows at a time.

        Parameters
        ----------
        layer : str
            As for :meth:`X`.
        rows : int, default=1024
            Rows of a block.

        Yields
        ------
        ndarray of shape (k, dim), float16 or float32
            In memory; k is ``rows`` but for the last block.
        """
        info = self.layer(layer)
        for start in range(0, len(self), rows):
            yield self._rows.take(info, np.arange(start, min(start + rows, len(self))))

    def verify(self, on_progress: ProgressCallback | None = None) -> None:
        """Check every byte and every value, and say all that is wrong.

        Hashes each open file against its user block with plain reads, before HDF5 sees it again, then
        reads the index, compares the digests of a directory's parts with it, and looks for values that
        are not finite.

        Parameters
        ----------
        on_progress : callable, optional
            Called with a :class:`featx.records.Progress` in bytes.

        Raises
        ------
        DamagedStoreError
            Naming what is wrong; its ``problems`` hold a line each.
        """
        from featx.store.verifying import find_problems

        self._file.require_open()
        problems = find_problems(self, self._file, self._rows, on_progress)
        if problems:
            more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise DamagedStoreError(f"{problems[0]}{more}", problems)

    def require_parts(self) -> None:
        """Make sure that every part of a directory is there in its length; reads none of them.

        Raises
        ------
        StoreError
            Naming the first that is not.
        """
        missing = self._rows.missing() if isinstance(self._rows, PartRows) else []
        if missing:
            raise StoreError(f"{missing[0]}; put it back, or run the extraction again")

    def export(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the store in the format of the suffix: ``.npz``, ``.csv``, ``.parquet`` or ``.h5``.

        See :func:`featx.store.exporting.export` for what each holds.

        Raises
        ------
        StoreError
            If the suffix is another, the file exists, or pyarrow is missing.
        """
        from featx.store.exporting import export

        return export(self, Path(path), overwrite=overwrite)

    @classmethod
    def from_arrays(
        cls,
        path: str | os.PathLike[str],
        X: NDArray[Any] | Mapping[str, NDArray[Any]],
        y: Sequence[Any] | NDArray[Any] | None = None,
        names: Sequence[str] | NDArray[Any] | None = None,
        *,
        backbone: str = "imported",
        layer: str = "imported",
        splits: Sequence[Any] | NDArray[Any] | None = None,
        groups: Sequence[Any] | NDArray[Any] | None = None,
        digests: NDArray[np.uint8] | None = None,
        phashes: NDArray[np.uint64] | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Make a store of embeddings that were computed elsewhere.

        Parameters
        ----------
        path : Path or str
            The store to write; must not exist.
        X : ndarray of shape (n, d), or mapping of str to such
            Embeddings, finite; float16 stays float16, anything else becomes float32.
        y, splits, groups : sequence of length n, optional
            Labels, splits and groups; None and ``""`` mean that there is none.
        names : sequence of str of length n, optional
            Unique names; default ``row-000000``, ``row-000001``, …
        backbone : str
            What made the embeddings.
        layer : str
            Name of the layer if ``X`` is one array.
        digests : ndarray of shape (n, 32), uint8, optional
            SHA-256 of each image; default the SHA-256 of its name, so that several imported stores
            of the same names align.
        phashes : ndarray of shape (n,), uint64, optional
            Perceptual hashes; default the first 8 bytes of the digest, which are never near another.
        overwrite : bool, default=False
            Replace a store that is there.

        Raises
        ------
        StoreError
            If shapes do not agree, a value is not finite, or the path exists.
        """
        from featx.store.importing import write_arrays

        layers = dict(X) if isinstance(X, Mapping) else {layer: X}
        write_arrays(
            Path(path),
            layers,
            y=y,
            names=names,
            splits=splits,
            groups=groups,
            digests=digests,
            phashes=phashes,
            backbone=backbone,
            overwrite=overwrite,
        )
        return cls(path)


def _file_of(path: Path) -> Path:
    """Find a store's one file, or the index of a directory."""
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


def _refuse_unfinished_file(path: Path) -> None:
    left = [entry for entry in list_directory(path.with_name(f"{path.name}.parts")) if part_number(entry)]
    if left:
        raise StoreError(
            f"{path} is not finished: {len(left)} parts of it lie in {left[0].parent}; run the same "
            "extraction again, which goes on from there"
        )
