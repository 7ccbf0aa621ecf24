"""From an RGB image of any size to the square that the network takes, on uint8 with Pillow.

Pillow's resampling is what torchvision's transforms use on PIL images, so that the pixels are the
same, bit for bit, and no torch is needed to make them.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from featx.errors import ImageError
from featx.images.decoding import MAX_PIXELS
from featx.images.scaling import Box
from featx.records import Pixels, Preprocess

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def prepare(image: Image.Image, preprocess: Preprocess, box: Box | None = None) -> Pixels:
    """Resize an RGB image to the network's input.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode ``RGB``.
    preprocess : Preprocess
    box : tuple of 4 floats, optional
        Where the photo lies in the image, to a fraction of a pixel; None if it fills it.

    Returns
    -------
    ndarray of uint8, (image_size, image_size, 3)

    Raises
    ------
    ImageError
        If the image is so thin that resizing its shorter side would need gigabytes.

    Notes
    -----
    Source of ``crop``: ``torchvision.transforms.functional.resize`` and ``center_crop``, rounding
    included.

    Examples
    --------
    >>> from PIL import Image
    >>> from featx.records import Preprocess
    >>> imagenet = Preprocess("crop", 256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    >>> prepare(Image.new("RGB", (500, 375)), imagenet).shape
    (224, 224, 3)
    """
    side, resampling = preprocess.image_size, _RESAMPLING[preprocess.interpolation]
    if preprocess.resize == "squash":
        square = image.resize((side, side), resampling, box)
    elif preprocess.resize == "pad":
        square = _pad(image, side, resampling, preprocess.mean, box)
    else:
        square = _center_crop(_resize_shorter(image, preprocess.resize_size, resampling, box), side)
    return np.asarray(square, dtype=np.uint8)


def _extent(image: Image.Image, box: Box | None) -> tuple[float, float]:
    return image.size if box is None else (box[2] - box[0], box[3] - box[1])


def _resize_shorter(
    image: Image.Image, size: int, resampling: Image.Resampling, box: Box | None
) -> Image.Image:
    width, height = _extent(image, box)
    shorter, longer = sorted((width, height))
    if shorter == size and box is None:
        return image
    long = max(1, int(size * longer / shorter))
    if size * long > MAX_PIXELS:
        raise ImageError(f"{width}×{height} pixels are too thin for a shorter side of {size}")
    return image.resize((size, long) if width <= height else (long, size), resampling, box)


def _center_crop(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    if width < side or height < side:
        padded = Image.new("RGB", (max(width, side), max(height, side)))
        padded.paste(image, ((padded.width - width) // 2, (padded.height - height) // 2))
        image, (width, height) = padded, padded.size
    top, left = round((height - side) / 2.0), round((width - side) / 2.0)
    return image.crop((left, top, left + side, top + side))


def _pad(
    image: Image.Image,
    side: int,
    resampling: Image.Resampling,
    mean: tuple[float, float, float],
    box: Box | None,
) -> Image.Image:
    width, height = _extent(image, box)
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    red, green, blue = (round(channel * 255) for channel in mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(image.resize(size, resampling, box), ((side - size[0]) // 2, (side - size[1]) // 2))
    return square
