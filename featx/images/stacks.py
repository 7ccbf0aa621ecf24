"""Images of one size in one array, one at a time as the network's decoder takes them.

===================  ====================================================================
what                 what becomes of it
===================  ====================================================================
(N, H, W)            grey
(N, H, W, C)         grey for C = 1, RGB for 3, RGB and alpha for 4
(N, C, H, W)         the same, where H, W and C leave no doubt
uint8, uint16        as they are; of 16 bits the range becomes that of 8 when decoded
bool                 0 and 255
other integers       as they are if all of them lie between 0 and 255; else refused
float                if all lie between 0 and 1, times 255; between 0 and 255, of which
                     the greatest is 2 or more, rounded; else refused
NaN and infinite     0, unless the whole image is
===================  ====================================================================

Other ranges are refused, not stretched to their own: that would show a network trained on one array
other pixels for the same picture in another, whose darkest and brightest values are not the same.
"""

from __future__ import annotations

import math
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import ImageError, SourceError
from featx.images.decoding import MAX_PIXELS
from featx.images.stored import StoredArray

__all__ = ["Stack"]

_CHANNELS = (1, 3, 4)
_DARKEST = 2.0
"""Floats up to less than this are neither of the two ranges, and would be black as the second."""


class Stack:
    """Images of an array.

    Parameters
    ----------
    array : StoredArray
        Of a shape and a dtype as above.

    Raises
    ------
    SourceError
        If it holds no images, or no image, or which axis is which cannot be told.
    """

    def __init__(self, array: StoredArray) -> None:
        self._array, where = array, array.called
        self._lock = Lock()
        self._range: tuple[float, float] | None = None
        shape = array.shape
        if array.dtype.kind not in "biuf":
            raise SourceError(f"{where} is of the dtype {array.dtype}; expected uint8, uint16 or float")
        if len(shape) not in (3, 4):
            raise SourceError(f"{where} has the shape {shape}; expected (N, H, W) or (N, H, W, 3)")
        if len(shape) == 3 and shape[-1] in _CHANNELS[1:]:
            raise SourceError(
                f"{where} has the shape {shape}, which is one colour image; expected a stack: save "
                "image[None], or, if it is grey images of that width, images[..., None]"
            )
        self._is_first = len(shape) == 4 and shape[-1] not in _CHANNELS
        if len(shape) == 4 and (shape[1] in _CHANNELS) != self._is_first:
            doubt = (
                "either axis may be that of the channels"
                if shape[1] in _CHANNELS
                else "no axis has 1, 3 or 4"
            )
            raise SourceError(
                f"{where} has the shape {shape}, of which {doubt}; expected (N, H, W, C) with 1, 3 or 4 "
                "channels and sides of another length"
            )
        if not math.prod(shape):
            raise SourceError(f"{where} has the shape {shape}: there is no image in it")
        height, width = shape[2:] if self._is_first else shape[1:3]
        if height * width > MAX_PIXELS:
            raise SourceError(
                f"{where} has images of {width}×{height} pixels, more than {MAX_PIXELS:,} allowed"
            )

    def __len__(self) -> int:
        return len(self._array)

    @property
    def image_bytes(self) -> int:
        """Bytes of one image as it is stored."""
        return self._array.row_bytes

    def image(self, position: int) -> NDArray[Any]:
        """Read one image.

        Parameters
        ----------
        position : int
            Counted from 0.

        Returns
        -------
        ndarray of uint8 or uint16, (H, W), (H, W, 3) or (H, W, 4)
            In C's order.

        Raises
        ------
        SourceError
            If the array has values that are no pixels, for which all of it is read once.
        ImageError
            If no value of the image is a finite number.
        OSError
            If it cannot be read.
        """
        pixels = self._array.rows(position, position + 1)[0]
        if self._is_first:
            pixels = np.moveaxis(pixels, 0, -1)
        if pixels.ndim == 3 and pixels.shape[-1] == 1:
            pixels = pixels[..., 0]
        return np.ascontiguousarray(self._as_integers(pixels))

    def _as_integers(self, pixels: NDArray[Any]) -> NDArray[Any]:
        kind, size = pixels.dtype.kind, pixels.dtype.itemsize
        if kind == "u" and size <= 2:
            return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        if kind == "b":
            return pixels.astype(np.uint8) * np.uint8(255)
        low, high = self._find_range()
        is_unit = kind == "f" and _is_between(low, high, 1)
        if not is_unit and (not _is_between(low, high, 255) or (kind == "f" and high < _DARKEST)):
            raise SourceError(
                f"{self._array.called} has values from {low:g} to {high:g}; expected pixels, from 0 to "
                "255 or floats from 0 to 1: undo a standardisation (values * std + mean), or scale and clip, "
                "and save again"
            )
        if kind in "iu":
            return pixels.astype(np.uint8)
        finite = np.isfinite(pixels)
        if not finite.any():
            raise ImageError("no pixel is a finite number")
        values = np.where(finite, pixels, 0).astype(np.float64) * (255 if is_unit else 1)
        return (values + 0.5).astype(np.uint8)

    def _find_range(self) -> tuple[float, float]:
        """Least and greatest finite value of all images, found at the first call."""
        with self._lock:
            if self._range is None:
                low, high = math.inf, -math.inf
                for block in self._array.blocks():
                    values = block[np.isfinite(block)] if block.dtype.kind == "f" else block
                    if values.size:
                        low, high = min(low, float(values.min())), max(high, float(values.max()))
                self._range = low, high
            return self._range


def _is_between(low: float, high: float, top: int) -> bool:
    """Whether all values lie between 0 and ``top``, but for half a step of 8 bits that rounding gives."""
    return low > -0.5 / 255 and high < top * 255.5 / 255
