"""Images that look like photos to a decoder, rendered in memory: for measuring where no photos are."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from featx.records import ImageRecord, Pixels

PHOTO_SIZE = (500, 375)
"""Width and height in pixels, usual in ImageNet."""

_CELLS = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Sides of the noise's cells in pixels, one octave each."""


def synthetic_photos(count: int, *, seed: int = 0, size: tuple[int, int] = PHOTO_SIZE) -> list[bytes]:
    """Render JPEGs that cost a decoder what photos do.

    They are cut-outs of coloured noise with the same energy in every octave, so that the amplitude falls
    with the frequency, as it does in photos. At quality 85 and 500×375 pixels they have about 110 KB, as
    photos of this size do, and take as long to decode.

    Parameters
    ----------
    count : int
    seed : int, default=0
    size : (int, int), default=(500, 375)
        Width and height in pixels.

    Returns
    -------
    list of bytes, count
        No two alike.

    Notes
    -----
    Source of the spectrum: D. J. Field, "Relations between the statistics of natural images and the
    response properties of cortical cells", Journal of the Optical Society of America A 4, 1987.

    Examples
    --------
    >>> photos = synthetic_photos(2)
    >>> Image.open(io.BytesIO(photos[1])).size
    (500, 375)
    """
    rng = np.random.default_rng(seed)
    width, height = size
    room = PHOTO_SIZE
    canvas = _noise(rng, width + room[0], height + room[1])
    photos: dict[bytes, None] = {}
    while len(photos) < count:
        left, top = rng.integers(0, room[0] + 1), rng.integers(0, room[1] + 1)
        cut = canvas[top : top + height, left : left + width, rng.permutation(3)]
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(cut)).save(buffer, "JPEG", quality=85)
        photos[buffer.getvalue()] = None
    return list(photos)


class SyntheticSource:
    """A source of :func:`synthetic_photos`.

    Parameters
    ----------
    count : int
    seed : int, default=0
    """

    location = "<memory>"

    def __init__(self, count: int, *, seed: int = 0) -> None:
        width, height = PHOTO_SIZE
        self.kind = f"{count} synthetic JPEGs of {width}×{height}"
        self._photos = synthetic_photos(count, seed=seed)

    def __iter__(self) -> Iterator[ImageRecord]:
        return (ImageRecord(str(place), size=len(data)) for place, data in enumerate(self._photos))

    def read(self, record: ImageRecord) -> bytes:
        """Give the encoded bytes of one image."""
        return self._photos[int(record.name)]


def _noise(rng: np.random.Generator, width: int, height: int) -> Pixels:
    total = np.full((height, width, 3), 127.5, np.float32)
    for cell in _CELLS:
        coarse = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
        octave = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(octave, np.float32) - 127.5) / 2
    return np.clip(total, 0, 255).astype(np.uint8)
