"""Bookkeeping of one extraction: who has a row, who was skipped, how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np

from featx.embedding import EmbeddedBatch
from featx.errors import ImageError, TooManySkippedError
from featx.records import ImageRecord, Progress, ProgressCallback, SkippedImage, escape_name
from featx.store.digests import DigestSet
from featx.store.partswriter import PartsWriter
from featx.store.schema import IndexRows

__all__ = ["Bookkeeping", "check_skipped"]


class Bookkeeping:
    """What becomes of each record; the writer gets the rows.

    Parameters
    ----------
    writer : PartsWriter
        Entered.
    records : sequence of ImageRecord
        What is extracted, in order.
    n_images : int
        Number of images of the whole source, of which ``records`` may be a shard.
    max_skip : float
        Share of all images that may be skipped.
    strict : bool
        Stop at the first that is.
    on_progress : callable or None
        Called after every batch.
    """

    def __init__(
        self,
        writer: PartsWriter,
        records: Sequence[ImageRecord],
        n_images: int,
        max_skip: float,
        strict: bool,
        on_progress: ProgressCallback | None,
    ) -> None:
        self._writer = writer
        self._records = records
        self._n_images = n_images
        self._max_skip = max_skip
        self._strict = strict
        self._on_progress = on_progress
        self._digests = np.zeros((len(records), 32), np.uint8)
        self._reasons: dict[int, str] = {}
        self._bad: dict[bytes, str] = {}
        self._claimed = DigestSet()
        self._has_row = np.zeros(len(records), np.bool_)
        self._lock = Lock()
        self._done = 0
        self.computed = 0

    def claim(self, digest: bytes) -> bool:
        """Whether this image has to be computed: it has no row, and nobody is at it."""
        with self._lock:
            return digest not in self._writer.known and self._claimed.add(digest)

    def take(self, batch: EmbeddedBatch, positions: Sequence[int] | None = None) -> None:
        """Hand rows to the writer, note what has none; ``positions`` are those of the records embedded."""
        where = positions if positions is not None else range(len(self._records))
        if batch.indices:
            self._writer.add(
                batch.digests,
                batch.phashes,
                batch.features,
                widths=batch.widths,
                heights=batch.heights,
                modes=batch.modes,
            )
            places = [where[index] for index in batch.indices]
            self._digests[places], self._has_row[places] = batch.digests, True
            self.computed += len(batch.indices)
        for item in batch.others:
            if item.digest:
                self._digests[where[item.index]] = np.frombuffer(item.digest, np.uint8)
            if item.reason:
                self._skip(where[item.index], item.digest, item.reason)
        if positions is None:
            self._done += len(batch.indices) + len(batch.others)
        if self._on_progress is not None:
            self._on_progress(Progress("embed", self._done, len(self._records)))

    def unfinished(self) -> list[int]:
        """Find images that have neither a row nor a reason, and let them be claimed again."""
        with self._lock:
            self._claimed = DigestSet(digest.tobytes() for digest in self._digests[self._has_row])
        settled = (self._claimed, self._writer.known, self._bad)
        return [
            index
            for index in np.flatnonzero(~self._has_row).tolist()
            if index not in self._reasons
            and not any(self._digests[index].tobytes() in digests for digests in settled)
        ]

    def result(self) -> tuple[IndexRows, list[SkippedImage]]:
        """Rows of the index in the order of the source, and the quarantine."""
        skipped = []
        is_used = np.ones(len(self._records), np.bool_)
        for index in np.flatnonzero(~self._has_row).tolist():
            digest = self._digests[index].tobytes()
            reason = self._reasons.get(index) or self._bad.get(digest, "")
            if reason:
                is_used[index] = False
                name = self._records[index].name
                skipped.append(SkippedImage(name, digest if any(digest) else b"", reason))
        self._check(len(skipped))
        places = np.flatnonzero(is_used)
        return IndexRows(self._records, places, self._digests[places]), skipped

    def _skip(self, index: int, digest: bytes, reason: str) -> None:
        self._reasons[index] = reason
        if digest:
            self._bad[digest] = reason
        self._check(len(self._reasons))

    def _check(self, n_skipped: int) -> None:
        if self._reasons:
            index, reason = next(iter(self._reasons.items()))  # one is enough to be named
            name = self._records[index].name
            check_skipped(n_skipped, self._n_images, self._max_skip, self._strict, name, reason)


def check_skipped(
    n_skipped: int, n_images: int, max_skip: float, strict: bool, name: str, reason: str
) -> None:
    """Stop where too many images cannot be used; ``name`` and ``reason`` are those of the first.

    Raises
    ------
    ImageError
        If ``strict``.
    TooManySkippedError
        If they are more than ``max_skip`` of all, or all.
    """
    if strict:
        raise ImageError(f"{escape_name(name)}: {reason} (without --strict it would be skipped)")
    if n_skipped == n_images:
        raise TooManySkippedError(
            f"None of the {n_images} files could be used; the first, {escape_name(name)}: {reason}"
        )
    if n_skipped > max_skip * n_images:
        raise TooManySkippedError(
            f"{n_skipped} of {n_images} images cannot be used, more than --max-skip {max_skip:g} allows; "
            f"the first, {escape_name(name)}: {reason}. Mend the files, or raise --max-skip; what was "
            "computed is kept."
        )
