"""Parallel reading, hashing, decoding and resizing, a bounded number of images ahead.

Threads are enough: Pillow gives the interpreter lock back while it decodes and resizes, and hashing
and reading do too. What decodes in another process (:mod:`featx.images.isolation`) is waited for in one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from featx.errors import ImageError
from featx.images.decoding import POLICY, check_policy, decode
from featx.images.items import RawImage
from featx.images.preparing import PreparedImage, prepare_image
from featx.images.reading import require_allowed
from featx.images.sources import Source
from featx.records import ImageRecord, Pixels, Preprocess

AHEAD_BYTES = 256 * 2**20
"""Decoded pixels that may wait for the network, in bytes."""


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """What became of one record.

    Parameters
    ----------
    index : int
        Position of the record in what was given to :func:`load`.
    digest : bytes
        SHA-256 of the encoded bytes, 32 bytes; empty if the file could not be read.
    prepared : PreparedImage or None
        None if the caller did not claim the digest, or if ``reason`` says why not.
    reason : str
        Why the image cannot be used; empty if it can.
    waited : float
        Seconds in which reading it had to wait.
    """

    index: int
    digest: bytes
    prepared: PreparedImage | None = None
    reason: str = ""
    waited: float = 0.0

    @property
    def pixels(self) -> Pixels | None:
        """Pixels for the network, (image_size, image_size, 3), if the image was prepared."""
        return self.prepared.pixels if self.prepared is not None else None


class Loader:
    """Reads, hashes, decodes and resizes one image at a time; may be called from several threads.

    Parameters
    ----------
    source : Source
    preprocess : Preprocess
    decoding : str
        One of :data:`featx.images.decoding.POLICIES`.
    claim : callable
        Asked with the digest of an image before it is decoded; False means that the caller needs no
        pixels. Called from several threads. None claims every image.
    trusted : mapping of name to (size, mtime_ns, digest), optional
        Images that had this digest when they had this size and time: not read again if the size
        and time still hold and the caller does not claim them.

    Raises
    ------
    UnknownNameError
        For another policy.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        *,
        decoding: str = POLICY,
        claim: Callable[[bytes], bool] | None = None,
        trusted: Mapping[str, tuple[int, int, bytes]] | None = None,
    ) -> None:
        check_policy(decoding)
        self._source = source
        self._preprocess = preprocess
        self._decoding = decoding
        self._wants = claim or (lambda _digest: True)
        self._trusted = trusted or {}

    def __call__(self, index: int, record: ImageRecord) -> LoadedImage:
        """Load one image; a bad one has a ``reason`` and is never an exception."""
        claimed = digest = b""
        before = self._trusted.get(record.name)
        if before and before[:2] == (record.size, record.mtime_ns):
            if not self._wants(before[2]):
                return LoadedImage(index, before[2])
            claimed = before[2]
        try:
            require_allowed(record.size)
            wall, processor = time.perf_counter(), time.thread_time()
            raw = self._source.read(record)
            waited = time.perf_counter() - wall - (time.thread_time() - processor)
            if isinstance(raw, bytes):
                require_allowed(len(raw))
            digest = digest_of(raw)
            if digest != claimed and not self._wants(digest):
                return LoadedImage(index, digest, waited=waited)
            return LoadedImage(
                index, digest, prepare_image(raw, self._preprocess, self._decoding), waited=waited
            )
        except ImageError as error:
            return LoadedImage(index, digest, reason=str(error))
        except MemoryError:
            return LoadedImage(index, digest, reason="not enough memory to decode it")
        except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
            return LoadedImage(
                index, digest, reason=f"cannot be read: {getattr(error, 'strerror', None) or error}"
            )


def load(
    source: Source,
    records: Iterable[ImageRecord],
    preprocess: Preprocess,
    *,
    workers: int,
    decoding: str = POLICY,
    claim: Callable[[bytes], bool] | None = None,
    trusted: Mapping[str, tuple[int, int, bytes]] | None = None,
) -> Iterator[LoadedImage]:
    """Load images in threads, a bounded number ahead, in the order of ``records``.

    Parameters
    ----------
    source, preprocess, decoding, claim, trusted
        As for :class:`Loader`.
    records : iterable of ImageRecord
    workers : int
        Number of threads.

    Yields
    ------
    LoadedImage
        One per record, in order; a bad image has a ``reason`` and is never an exception.

    Raises
    ------
    UnknownNameError
        For another policy.
    """
    loader = Loader(source, preprocess, decoding=decoding, claim=claim, trusted=trusted)
    yield from load_ahead(loader, records, workers=workers, image_bytes=3 * preprocess.image_size**2)


def load_ahead(
    loader: Callable[[int, ImageRecord], LoadedImage],
    records: Iterable[ImageRecord],
    *,
    workers: int,
    image_bytes: int,
) -> Iterator[LoadedImage]:
    """Call a :class:`Loader` in threads, ahead of the caller by at most :data:`AHEAD_BYTES` of pixels."""
    ahead = max(2 * workers, min(16 * workers, AHEAD_BYTES // image_bytes))
    waiting: deque[Future[LoadedImage]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="featx-decode") as pool:
        try:
            for index, record in enumerate(records):
                waiting.append(pool.submit(loader, index, record))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def digest_of(raw: RawImage) -> bytes:
    """SHA-256 of what was read: of the encoded bytes, or of shape, dtype and values of an array.

    A PIL image is decoded first, since palette, transparency and orientation count.

    Raises
    ------
    ImageError
        If it is a PIL image that cannot be decoded.

    Examples
    --------
    >>> digest_of(b"abc").hex()[:16]
    'ba7816bf8f01cfea'
    """
    if isinstance(raw, bytes):
        return hashlib.sha256(raw).digest()
    array = np.asarray(decode(raw) if isinstance(raw, Image.Image) else raw)
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).digest()


def default_workers() -> int:
    """Threads that decode: one for each processor this process may use.

    Examples
    --------
    >>> default_workers() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
