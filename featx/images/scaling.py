"""How far a JPEG decoder may scale a photo down, and where the photo then lies in its pixels.

A JPEG holds blocks of 8×8 pixels as frequencies. A decoder that leaves the high ones out gives half, a
quarter or an eighth of the size, and saves most of the work of decoding and resizing.
"""

from __future__ import annotations

from typing import TypeAlias

from featx.records import Preprocess

Box: TypeAlias = "tuple[float, float, float, float]"
"""Left, top, right and bottom in pixels, as :meth:`PIL.Image.Image.resize` takes it."""

SCALES = (8, 4, 2)
"""By what libjpeg divides width and height, and Pillow offers."""

MARGIN = 1.75
"""How many times larger than the resized image the scaled one stays, at least.

Rows of photos that were scaled to just this multiple, against those of the same photos unscaled: the worst
cosine is 0.962 with 1, 0.996 with 1.5, 0.998 with 1.75, 0.997 with 2 (MobileNetV2, ImageNet weights, fp32,
ten photos at scales 2 and 4). ``benchmarks/bench_decode.py`` measures it.
"""

SMALLEST_SIDE = 64
"""Side in pixels that scaling keeps in any case: the difference hash wants more than its 9×8 cells."""

_TURNS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""By EXIF orientation: whether the axes are swapped and then mirrored left to right, top to bottom."""


def choose_scale(width: int, height: int, preprocess: Preprocess) -> int:
    """Give the largest divisor that leaves :data:`MARGIN` times the pixels that resizing needs.

    Parameters
    ----------
    width, height : int
        Of the photo in pixels; it does not matter which is which.
    preprocess : Preprocess
        ``crop`` resizes the shorter side, ``pad`` the longer one, ``squash`` both.

    Returns
    -------
    int
        8, 4, 2 or 1.

    Examples
    --------
    >>> imagenet = Preprocess("crop", 256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    >>> choose_scale(4000, 3000, imagenet), choose_scale(500, 375, imagenet)
    (4, 1)
    """
    shorter, longer = sorted((width, height))
    side = longer if preprocess.resize == "pad" else shorter
    target = preprocess.resize_size if preprocess.resize == "crop" else preprocess.image_size
    return next(
        (scale for scale in SCALES if side >= scale * MARGIN * target and shorter >= scale * SMALLEST_SIDE),
        1,
    )


def turn_box(box: Box, size: tuple[int, int], orientation: object) -> Box:
    """Turn a box as :func:`PIL.ImageOps.exif_transpose` turns the image.

    Where the scale does not divide the size, the last column and row of the scaled image hold less than
    a pixel of the photo; after turning they may be the first ones.

    Parameters
    ----------
    box : tuple of 4 floats
        Where the photo lies before it is turned.
    size : (int, int)
        Width and height of the image before it is turned, in pixels.
    orientation : object
        EXIF's, 1 to 8; with anything else nothing is turned.

    Examples
    --------
    >>> turn_box((0, 0, 25.5, 10.25), (26, 11), 6)
    (0.75, 0, 11, 25.5)
    """
    swapped, mirrored, flipped = (
        _TURNS.get(orientation, (False,) * 3) if isinstance(orientation, int) else (False,) * 3
    )
    left, top, right, bottom = box
    width, height = size
    if swapped:
        left, top, right, bottom, width, height = top, left, bottom, right, height, width
    if mirrored:
        left, right = width - right, width - left
    if flipped:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom
