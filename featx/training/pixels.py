"""All images of a source, decoded once: uint8, as the network takes them, in memory or in a mapped file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featx.errors import SourceError, TooManySkippedError
from featx.files import disk_errors
from featx.images.loading import load
from featx.images.sources import Source
from featx.records import (
    ImageRecord,
    Pixels,
    Preprocess,
    Progress,
    ProgressCallback,
    SkippedImage,
    escape_name,
)

__all__ = ["MEMORY_SHARE", "ImageSet", "load_images", "memory_bytes"]

MEMORY_SHARE = 0.5
"""Share of the machine's memory that the images may take; the network and its activations need the rest.
More images than that are kept in a temporary file and mapped."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images that could be used, in the order of the source.

    Parameters
    ----------
    names : tuple of str, n
    labels, splits, groups : ndarray of str, (n,)
        Empty strings where there is none.
    digests : ndarray of uint8, (n, 32)
    phashes : ndarray of uint64, (n,)
    pixels : ndarray of uint8, (n, image_size, image_size, 3)
    skipped : tuple of SkippedImage
    """

    names: tuple[str, ...]
    labels: NDArray[np.str_]
    splits: NDArray[np.str_]
    groups: NDArray[np.str_]
    digests: NDArray[np.uint8]
    phashes: NDArray[np.uint64]
    pixels: Pixels
    skipped: tuple[SkippedImage, ...]


def load_images(
    source: Source,
    records: Sequence[ImageRecord],
    preprocess: Preprocess,
    *,
    workers: int,
    max_skip: float,
    scratch: Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> ImageSet:
    """Decode every image once.

    Parameters
    ----------
    source : Source
    records : sequence of ImageRecord, n
    preprocess : Preprocess
    workers : int
        Threads.
    max_skip : float
        Share of the images that may be skipped.
    scratch : Path, optional
        Where a file of n × image_size² × 3 bytes may lie, should they be more than half of the machine's
        memory; the folder for temporary files by default. It has no name, and goes with the process.
    on_progress : callable, optional

    Raises
    ------
    SourceError
        If they fit neither into memory nor there.
    TooManySkippedError
        If more images than ``max_skip`` cannot be used, or none can.
    """
    pixels = _room(len(records), preprocess.image_size, scratch)
    kept: list[int] = []
    digests: list[bytes] = []
    phashes: list[int] = []
    skipped: list[SkippedImage] = []
    for item in load(source, records, preprocess, workers=workers):
        if item.prepared is None:
            skipped.append(SkippedImage(records[item.index].name, item.digest, item.reason))
            _check_skipped(skipped, len(records), max_skip)
        else:
            pixels[len(kept)] = item.prepared.pixels
            kept.append(item.index)
            digests.append(item.digest)
            phashes.append(item.prepared.phash)
        if on_progress is not None:
            on_progress(Progress("decode", item.index + 1, len(records)))
    used = [records[index] for index in kept]
    return ImageSet(
        names=tuple(record.name for record in used),
        labels=np.array([record.label or "" for record in used], np.str_),
        splits=np.array([record.split or "" for record in used], np.str_),
        groups=np.array([record.group or "" for record in used], np.str_),
        digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        phashes=np.array(phashes, np.uint64),
        pixels=pixels[: len(kept)],
        skipped=tuple(skipped),
    )


def memory_bytes() -> int | None:
    """Give the size of the machine's memory in bytes, None where it is not known."""
    if not hasattr(os, "sysconf"):  # Windows
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _room(n_images: int, side: int, scratch: Path | None) -> Pixels:
    shape = (n_images, side, side, 3)
    total, needed = memory_bytes(), n_images * side**2 * 3
    if total is None or needed <= MEMORY_SHARE * total:
        return np.empty(shape, np.uint8)
    place = scratch or Path(tempfile.gettempdir())
    with disk_errors(place):
        free = shutil.disk_usage(place).free
        if needed > free:
            raise SourceError(
                f"{n_images} images of {side}×{side} pixels take {needed / 1e9:.1f} GB, more than half of "
                f"the {total / 1e9:.1f} GB of memory and than the {free / 1e9:.1f} GB free in {place}; "
                "fine-tune on fewer images, with a smaller --image-size, or with the run on another disk."
            )
        with tempfile.TemporaryFile(dir=place) as file:
            # The map keeps the file alive; on POSIX it has no name from the start.
            return np.memmap(file, np.uint8, "w+", shape=shape)


def _check_skipped(skipped: Sequence[SkippedImage], n_images: int, max_skip: float) -> None:
    if len(skipped) > max_skip * n_images or len(skipped) == n_images:
        first = skipped[0]
        raise TooManySkippedError(
            f"{len(skipped)} of {n_images} images cannot be used, more than --max-skip {max_skip:g} allows; "
            f"the first, {escape_name(first.name)}: {first.reason}. Mend the files, or raise --max-skip."
        )
