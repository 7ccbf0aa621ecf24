"""What is kept of one image, wherever it was decoded."""

from __future__ import annotations

from dataclasses import dataclass

from featx.records import Pixels

__all__ = ["PreparedImage"]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """What one image gave.

    Parameters
    ----------
    pixels : ndarray of uint8, (image_size, image_size, 3)
    phash : int
        64-bit difference hash of the whole image; 0 for a very small one.
    width, height, mode
        As in :class:`featx.images.decoding.Decoded`.
    seconds : float
        Processor time that another process took for it.
    """

    pixels: Pixels
    phash: int
    width: int
    height: int
    mode: str
    seconds: float = 0.0
