"""One encoded image to the network's input, with all that is kept of it."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from PIL import Image

from featx.images.decoding import check_policy, decode_for
from featx.images.formats import recognise
from featx.images.geometry import prepare
from featx.images.isolation import CannotStartError, prepare_apart
from featx.images.items import RawImage
from featx.images.prepared import PreparedImage
from featx.images.scaling import Box
from featx.records import Preprocess

__all__ = ["SMALLEST_HASHED", "PreparedImage", "difference_hash", "prepare_here", "prepare_image"]

SMALLEST_HASHED = 32
"""Side in pixels below which an image has no perceptual hash."""

_DECODED_HERE = ("JPEG", "PNG")
"""Formats whose decoders do not crash, as :mod:`featx.images.isolation` says."""


def prepare_image(raw: RawImage, preprocess: Preprocess, policy: str) -> PreparedImage:
    """Decode, resize and hash one image.

    JPEG and PNG, arrays and PIL images are decoded here, everything else in another process, as
    :mod:`featx.images.isolation` says. What an image is, is seen by its first bytes.

    Parameters
    ----------
    raw : bytes, ndarray or PIL.Image.Image
        As for :func:`featx.images.decoding.decode`.
    preprocess : Preprocess
    policy : str
        One of :data:`featx.images.decoding.POLICIES`.

    Raises
    ------
    ImageError
        With the reason that goes into the quarantine.
    UnknownNameError
        For another policy.
    """
    check_policy(policy)
    if isinstance(raw, bytes) and recognise(raw) not in _DECODED_HERE:
        with suppress(CannotStartError):  # which has been said
            return prepare_apart(raw, preprocess, policy)
    return prepare_here(raw, preprocess, policy)


def prepare_here(raw: RawImage, preprocess: Preprocess, policy: str) -> PreparedImage:
    """Do what :func:`prepare_image` does, in this process whatever the format."""
    decoded = decode_for(raw, preprocess, policy)
    pixels = prepare(decoded.image, preprocess, decoded.box)
    phash = difference_hash(decoded.image, decoded.box)
    return PreparedImage(pixels, phash, decoded.width, decoded.height, decoded.mode)


def difference_hash(image: Image.Image, box: Box | None = None) -> int:
    """Give the 64-bit difference hash: which of 8×8 cells are darker than the one to their left.

    Similar pictures differ in few bits. An image with a side below :data:`SMALLEST_HASHED` has the hash
    0, which means none: 9×8 cells of so few pixels are alike for pictures that are not. ``box`` is where
    the photo lies in an image that its decoder scaled: bits of cells that are nearly alike may differ then.

    Source: N. Krawetz, "Kind of Like That", The Hacker Factor Blog, 2013.

    Examples
    --------
    >>> ramp = Image.linear_gradient("L").rotate(90)
    >>> f"{difference_hash(ramp.convert('RGB')):016x}"
    'ffffffffffffffff'
    """
    if min(image.size) < SMALLEST_HASHED:
        return 0
    grey = np.asarray(image.resize((9, 8), Image.Resampling.BOX, box).convert("L"), dtype=np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")
