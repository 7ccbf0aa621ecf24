"""Writing a store that is one file: parts become the file at the end.

Until then the parts lie in ``STORE.parts/``. The only rows ever given up are those of another
space, which are refused, or replaced when asked to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import DamagedStoreError, NotAStoreError, StoreError
from featx.files import disk_errors, make_directories, remove_temporaries
from featx.records import LayerInfo, SkippedImage, Space
from featx.store.gathering import OpenFiles, gather
from featx.store.leftovers import remove_parts
from featx.store.parts import part_number
from featx.store.partswriter import PartsWriter
from featx.store.recovery import (
    list_directory,
    list_file_parts,
    open_parts,
    parts_directory,
    refuse_other_space,
    refuse_other_width,
    remove_part_temporaries,
)
from featx.store.rowindex import RowSource, as_keys
from featx.store.schema import IndexRow, digest_rows, images_table, root_attributes, skipped_table
from featx.store.skeleton import write_file
from featx.store.storefile import StoreFile

__all__ = ["IndexRow", "StoreWriter"]

_FEW = 100
"""Images whose rows are soon computed again."""


class StoreWriter(PartsWriter):
    """Writes one single-file store; see :class:`~featx.store.partswriter.PartsWriter`.

    A finished store of the same space is added to; its rows are used again.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from featx.records import ImageRecord
    >>> from featx.store.reader import FeatureStore
    >>> space = Space("custom", "mine", {"digest": "0"}, {}, "1", "fp32", "float16")
    >>> path = Path(tempfile.mkdtemp()) / "photos.h5"
    >>> with StoreWriter(path, space, [LayerInfo("fc", "flatten", 2)], request={}, source="photos") as writer:
    ...     digest, phash = np.full((1, 32), 7, np.uint8), np.zeros(1, np.uint64)
    ...     writer.add(digest, phash, {"fc:flatten": np.ones((1, 2), np.float32)})
    ...     _ = writer.finish([IndexRow(ImageRecord("a.jpg", label="ant"), bytes(digest))], [], {})
    >>> FeatureStore(path).names
    ['a.jpg']
    """

    def __init__(
        self, path: str | os.PathLike[str], space: Space, layers: Sequence[LayerInfo], **options: Any
    ) -> None:
        # Renaming over a symbolic link would replace the link.
        file = Path(os.path.realpath(path))
        super().__init__(file, space, layers, locked=file, parts_directory=parts_directory(file), **options)
        self._finished: RowSource | None = None

    def _prepare(self) -> None:
        self._refuse_foreign()
        with disk_errors(self.path):
            make_directories(self.path.parent)

    def _recover(self) -> None:
        self._refuse_foreign()
        with disk_errors(self.path):
            remove_temporaries(self.path)
        self._load_store()
        entries = list_directory(self.parts_directory)
        remove_part_temporaries(entries)
        self._next_number = 1 + max((part_number(path) or 0 for path in entries), default=0)
        options: dict[str, Any] = {"check": True, "notes": self.notes}
        sources, others = open_parts(
            entries, self.space, self.layers, is_outdated=lambda _: self.overwrite, **options
        )
        self._index.sources.extend(sources)
        for path in others:
            self.notes.append(f"{path} is of another space and was removed")
            with disk_errors(path):
                path.unlink()
        with disk_errors(self.parts_directory):
            make_directories(self.parts_directory)

    def _leave(self) -> None:
        with suppress(OSError):  # it holds parts, or is gone
            self.parts_directory.rmdir()

    def finish(
        self, images: Sequence[IndexRow], skipped: Sequence[SkippedImage], provenance: Mapping[str, Any]
    ) -> Path:
        """Assemble the store: index, every row in the order of the images, then the final name.

        Layers that a finished store of the same space has for all the images are kept.

        Parameters
        ----------
        images : sequence of IndexRow
            Row ``i`` of the store is ``images[i]``; identical images keep a row each.
        skipped : sequence of SkippedImage
            What could not be used.
        provenance : mapping
            ``seconds`` and ``peak_memory_bytes`` of the run; more is kept as JSON.

        Returns
        -------
        Path
            The store.

        Raises
        ------
        StoreError
            If an image has no row, most rows of the store would go, or the disk fails; parts are kept.
        """
        self.flush()
        kept = [region.layer for region in self._finished.regions.values()] if self._finished else []
        digests = digest_rows(images)
        layers, where = self._locate(images, digests, kept)
        self._refuse_loss(digests)
        measured = self._with_earlier_seconds(provenance, where)
        phashes = self._index.phashes_at(where[self.layers[0].name])
        table, columns = images_table(images, phashes, self._index.shapes_at([*where.values()]))
        with OpenFiles() as files:

            def close_and_confirm() -> None:
                files.close()
                self._lock.confirm()

            write_file(
                self.path,
                attributes=root_attributes(self.space, self.request, self.source, measured),
                tables={"images": table, "images/columns": columns, "skipped": skipped_table(skipped)},
                layers=layers,
                rows=len(images),
                dtype=self._dtype,
                blocks=lambda layer: gather(files, self._index.sources, layer, *where[layer.name]),
                before_publish=close_and_confirm,
            )
        self._remove_parts()
        return self.path

    def _refuse_foreign(self) -> None:
        """Never touch what featx did not write, whatever the options."""
        if not os.path.lexists(self.path):
            return
        try:
            file = StoreFile(self.path)
        except NotAStoreError:
            raise NotAStoreError(f"{self.path} exists and is no featx store; choose another output") from None
        except DamagedStoreError:
            # It begins with our magic, so it is ours; what to do is decided under the lock.
            return
        file.close()
        if file.contents.kind != "store":
            raise NotAStoreError(f"{self.path} exists and is a part of another store; choose another output")

    def _load_store(self) -> None:
        if self.overwrite or not self.path.exists():
            return
        found = RowSource.open(self.path, check=True, remedy="extract it again with --overwrite")
        refuse_other_space(self.path, found.space, self.space)
        refuse_other_width(found, self.layers)
        self._finished = found
        self._index.sources.append(found)

    def _refuse_loss(self, digests: NDArray[np.uint8]) -> None:
        """Keep the rows where most images are gone: then the source is often mistyped, or not mounted."""
        if self._finished is None:
            return
        there = np.unique(as_keys(self._finished.digests))
        gone = len(np.setdiff1d(there, as_keys(digests)))
        if gone > max(_FEW, len(there) // 2):
            raise StoreError(
                f"{self.path} would lose the rows of {gone} of its {len(there)} images, which {self.source} "
                "does not have; check the source, choose another output, or replace it with --overwrite"
            )
        self.removed = gone

    def _remove_parts(self) -> None:
        """Remove the parts of which the store has every row now; what cannot be removed does no harm."""
        self._index.sources.clear()
        try:
            remove_parts(self.path, self.parts_directory)
        except StoreError as error:
            self.notes.append(f"{self.parts_directory} could not be removed ({error}); remove it by hand")
            return
        left = list_file_parts(self.path)
        if left:
            self.notes.append(
                f"{len(left)} part{'s' * (len(left) > 1)} with rows of images that {self.source} does not "
                f"have stay in {self.parts_directory}; remove it if you do not need them"
            )
