"""Reading a store: labels and names as arrays, embeddings as memory maps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featx.errors import DamagedStoreError, NotAStoreError, UnknownNameError
from featx.files import disk_errors
from featx.records import ImageRecord, LayerInfo, SkippedImage, Space
from featx.store.checking import Region
from featx.store.schema import column_of_dataset
from featx.store.storefile import StoreFile
from featx.store.userblock import check_bytes

__all__ = ["FeatureStore"]


class FeatureStore:
    """The embeddings of one image set in one space, opened for reading.

    Opening reads the user block and walks the structure; the index and the embeddings are read when
    they are asked for. Rows are in the same order everywhere. A store that is replaced while it is
    open stays what it was.

    Parameters
    ----------
    path : Path or str
        The store.

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

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = StoreFile(self.path)
        contents = self._file.contents
        if contents.kind != "store":
            self._file.close()
            raise NotAStoreError(
                f"{self.path} is one part of an unfinished store; run its extraction again to finish it"
            )
        self.space: Space = contents.space
        self.meta: dict[str, Any] = dict(contents.meta)
        self.layers: tuple[LayerInfo, ...] = tuple(region.layer for region in contents.regions)
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

    def __len__(self) -> int:
        return self._file.contents.rows

    def __repr__(self) -> str:
        layers = ", ".join(f"{layer.name} ({layer.dim})" for layer in self.layers)
        return f"<FeatureStore {self.path}: {len(self)} images, {self.space.backbone}, {layers}>"

    def layer(self, layer: str) -> LayerInfo:
        """Find a layer by ``NODE:POOL``, or by ``NODE`` if it has one pooling only.

        Raises
        ------
        UnknownNameError
            Listing the names that there are.
        """
        return self._region(layer).layer

    def X(self, layer: str) -> NDArray[Any]:
        """Embeddings of one layer.

        Parameters
        ----------
        layer : str
            ``NODE:POOL``, or ``NODE`` if it has one pooling only.

        Returns
        -------
        ndarray of shape (n, dim), float16 or float32
            A read-only :class:`numpy.memmap`; a plain empty array if there are no images.

        Raises
        ------
        UnknownNameError
            If there is no such layer, or several.
        """
        region = self._region(layer)
        shape = (region.rows, region.layer.dim)
        if not region.rows:
            return np.empty(shape, region.dtype)
        self._file.require_open()
        with disk_errors(self.path, "read"):
            return np.memmap(self._file.raw, region.dtype, "r", region.offset, shape)

    @cached_property
    def names(self) -> list[str]:
        """Name of each image, as :func:`os.fsdecode` gives it."""
        return [os.fsdecode(name) for name in self._file.read("images/name")]

    @cached_property
    def y(self) -> NDArray[np.object_]:
        """Label of each image, str, ``""`` for none; shape (n,)."""
        return self._file.read_text("images/label")

    @cached_property
    def splits(self) -> NDArray[np.object_]:
        """Split of each image, ``""`` for none; shape (n,)."""
        return self._file.read_text("images/split")

    @cached_property
    def groups(self) -> NDArray[np.object_]:
        """Group of each image, ``""`` for none; shape (n,)."""
        return self._file.read_text("images/group")

    @cached_property
    def digests(self) -> NDArray[np.uint8]:
        """SHA-256 of the encoded bytes of each image; shape (n, 32), uint8."""
        return self._file.read("images/digest")

    @cached_property
    def phashes(self) -> NDArray[np.uint64]:
        """Perceptual hash of each image; shape (n,), uint64."""
        return self._file.read("images/phash")

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Encoded size of each image in bytes, -1 if unknown; shape (n,)."""
        return self._file.read("images/size")

    @cached_property
    def mtimes_ns(self) -> NDArray[np.int64]:
        """Time of the last change of each image in nanoseconds, -1 if unknown; shape (n,)."""
        return self._file.read("images/mtime_ns")

    @cached_property
    def columns(self) -> dict[str, NDArray[np.object_]]:
        """Further columns of the source by name, each of shape (n,), str."""
        with self._file.h5() as h5:
            stored = list(h5["images/columns"])
        return {column_of_dataset(name): self._file.read_text(f"images/columns/{name}") for name in stored}

    @cached_property
    def records(self) -> list[ImageRecord]:
        """The images as their source gave them; a missing label, split or group is None."""
        columns = self.columns
        return [
            ImageRecord(
                name,
                label or None,
                split or None,
                group or None,
                size,
                mtime,
                {column: values[row] for column, values in columns.items()},
            )
            for row, (name, label, split, group, size, mtime) in enumerate(
                zip(
                    self.names,
                    self.y,
                    self.splits,
                    self.groups,
                    self.sizes.tolist(),
                    self.mtimes_ns.tolist(),
                    strict=True,
                )
            )
        ]

    @cached_property
    def skipped(self) -> list[SkippedImage]:
        """Images that could not be used, and why."""
        names = [os.fsdecode(name) for name in self._file.read("skipped/name")]
        digests = [row.tobytes() if row.any() else b"" for row in self._file.read("skipped/digest")]
        reasons = self._file.read_text("skipped/reason")
        return [SkippedImage(*item) for item in zip(names, digests, reasons, strict=True)]

    def verify(self) -> None:
        """Check every byte and every value.

        Hashes the open file against its user block with plain reads, before HDF5 sees it again,
        then reads the index, and looks for values that are not finite.

        Raises
        ------
        DamagedStoreError
            Naming what is wrong.
        """
        self._file.require_open()
        with disk_errors(self.path, "read"):
            check_bytes(self._file.raw, self.path)
        if len(set(self.names)) != len(self):
            raise DamagedStoreError(f"{self.path} is damaged: a name stands twice; extract it again")
        if len(self.records) != len(self) or len(self.phashes) != len(self.digests):
            raise DamagedStoreError(f"{self.path} is damaged: its index is incomplete; extract it again")
        for region in self._file.contents.regions:
            start = 0
            for block in self._file.blocks(region):
                bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
                if len(bad):
                    raise DamagedStoreError(
                        f"{self.path} is damaged: row {start + int(bad[0])} of {region.layer.name!r} is not "
                        "finite; extract it again"
                    )
                start += len(block)

    def export(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the store in another format, chosen by the suffix: ``.npz``, ``.csv`` or ``.parquet``.

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

    def _region(self, layer: str) -> Region:
        regions = self._file.contents.regions
        matches = [region for region in regions if region.layer.name == layer]
        matches = matches or [region for region in regions if region.layer.node == layer]
        if len(matches) == 1:
            return matches[0]
        known = [region.layer.name for region in (matches or regions)]
        hint = (
            f"It is pooled in {len(matches)} ways; name one." if matches else f"{self.path} has these layers."
        )
        raise UnknownNameError("layer", layer, known, hint)
