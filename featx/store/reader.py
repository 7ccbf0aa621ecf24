"""Reading a store: labels and names as arrays, embeddings as memory maps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featx.errors import DamagedStoreError, StoreError
from featx.records import ProgressCallback, Space
from featx.store.embeddings import Embeddings
from featx.store.opening import expected_bytes, store_file
from featx.store.partrows import PartRows
from featx.store.storefile import StoreFile, count_bytes

__all__ = ["FeatureStore"]


class FeatureStore(Embeddings):
    """The embeddings of one image set in one space, opened for reading.

    Opening reads the user block and walks the structure; the index and the embeddings are read when
    they are asked for. Rows are in the same order everywhere. A store that is replaced while it is
    open stays what it was; of a directory that is overwritten, rows that were not read may be gone,
    which is an error then.
    A pickled store is its path, and is opened again where it is unpickled.

    Parameters
    ----------
    path : Path or str
        The store: a file, or a directory of many parts.
    check : bool, default=False
        Hash every byte of the file (of a directory, its index) before HDF5 sees one: for files from
        elsewhere. :meth:`verify` checks more, and does not hash them again.
    on_progress : callable, optional
        Called with a :class:`featx.records.Progress` while that is done, in bytes of all that
        :meth:`verify` hashes.

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
        path = Path(path)
        file = store_file(path)
        total = expected_bytes(file) if check else 0
        on_bytes = count_bytes(total, on_progress)
        super().__init__(path, StoreFile(file, check=check, on_bytes=on_bytes))
        self._absolute = path.absolute()  # now: somebody may change the directory
        self._is_whole = False
        contents = self._file.contents
        self.space: Space = contents.space
        self.meta: dict[str, Any] = dict(contents.meta)
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

    def __reduce__(self) -> tuple[type[Self], tuple[Path], bytes]:
        return type(self), (self._absolute,), self._file.header.digest

    def __setstate__(self, digest: bytes) -> None:
        if self._file.header.digest != digest:
            self.close()
            raise StoreError(f"{self.path} was replaced since the store was pickled; open it again")

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
        self._is_whole = not problems
        if problems:
            more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise DamagedStoreError(f"{problems[0]}{more}", problems)

    def require_bytes(self, on_progress: ProgressCallback | None = None) -> None:
        """Hash every file of the store with plain reads before its rows are used; once, then it is free.

        Parameters
        ----------
        on_progress : callable, optional
            Called with a :class:`featx.records.Progress` in bytes.

        Raises
        ------
        DamagedStoreError
            Naming the first file whose bytes are not those that were written.
        StoreError
            If a part is missing.
        """
        from featx.store.verifying import require_bytes

        if not self._is_whole:
            require_bytes(self._file, self._rows, on_progress)
            self._is_whole = True

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
