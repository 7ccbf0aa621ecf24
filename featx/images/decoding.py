"""One encoded image to RGB; every conversion rule of featx stands in this file.

===================  ====================================================================
what                 what becomes of it
===================  ====================================================================
EXIF orientation     applied
CMYK                 RGB, with Adobe's inversion undone
16-bit grey          divided by 257: the range of the type becomes 0 to 255
32-bit, float        the image's own finite range becomes 0 to 255
Lab                  sRGB
alpha, transparency  laid on white
palette, 1-bit       expanded
animation, pages     the first
colour profiles      ignored: networks are trained on pixels as stored
over 89 megapixels   refused
===================  ====================================================================

A policy is the version of these rules and part of every space: whoever changes what comes out changes
its name.

===================  ====================================================================
policy               what it is
===================  ====================================================================
``1``                these rules: :data:`POLICY`
``1+dct``            the same; but of photos much larger than the network's input, 8-bit
                     JPEGs in RGB or grey are scaled down by the decoder, as
                     :mod:`featx.images.scaling` says: :data:`FAST_POLICY`
===================  ====================================================================
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from featx.errors import ImageError, UnknownNameError
from featx.images.scaling import Box, choose_scale, turn_box
from featx.records import Preprocess

POLICY = "1"
"""Version of the decoding rules, part of the space."""

FAST_POLICY = f"{POLICY}+dct"
"""The same rules with large JPEGs scaled by their decoder: ``--fast-decode``."""

POLICIES = (POLICY, FAST_POLICY)
"""All that this featx decodes by."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""Pillow's names of the formats that are read; none of them starts another program."""

MAX_PIXELS = 89_478_485
"""Pixels of the largest image that is decoded: Pillow's own limit, 256 MiB as RGB."""

_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow's decoders are seen to raise on broken files."""


def decode(data: bytes | NDArray[Any] | Image.Image) -> Image.Image:
    """Decode one image to RGB.

    Parameters
    ----------
    data : bytes, ndarray or PIL.Image.Image
        An encoded image; or pixels as (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), ``uint8``,
        ``uint16`` (range of the type) or float (from 0 to 1).

    Returns
    -------
    PIL.Image.Image
        Mode ``RGB``.

    Raises
    ------
    ImageError
        With the reason that goes into the quarantine.

    Examples
    --------
    >>> import numpy as np
    >>> decode(np.full((4, 6), 128, dtype=np.uint8)).getpixel((5, 3))
    (128, 128, 128)
    """
    return _decode(data, None)[0]


def decode_for(
    data: bytes | NDArray[Any] | Image.Image, preprocess: Preprocess, policy: str = POLICY
) -> tuple[Image.Image, Box | None]:
    """Decode one image to RGB, no larger than is needed if the policy says so.

    Parameters
    ----------
    data : bytes, ndarray or PIL.Image.Image
        As for :func:`decode`.
    preprocess : Preprocess
        What the image is resized to afterwards.
    policy : str
        One of :data:`POLICIES`.

    Returns
    -------
    image : PIL.Image.Image
        Mode ``RGB``.
    box : tuple of 4 floats, or None
        Where the photo lies in a scaled image, for :func:`featx.images.geometry.prepare`; None if the
        image has its full size.

    Raises
    ------
    ImageError
        With the reason that goes into the quarantine.
    UnknownNameError
        For another policy.

    Examples
    --------
    >>> imagenet = Preprocess("crop", 256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (2049, 1600)).save(file, "JPEG")
    >>> image, box = decode_for(file.getvalue(), imagenet, FAST_POLICY)
    >>> image.size, box
    ((1025, 800), (0, 0, 1024.5, 800.0))
    """
    check_policy(policy)
    return _decode(data, preprocess if policy == FAST_POLICY else None)


def choose_policy(fast_decode: bool) -> str:
    """Give the policy that an option stands for."""
    return FAST_POLICY if fast_decode else POLICY


def check_policy(policy: str) -> None:
    """Refuse rules that this featx does not have.

    Raises
    ------
    UnknownNameError
        Naming those that it has.
    """
    if policy not in POLICIES:
        raise UnknownNameError(
            "decoding policy", policy, POLICIES, "It is that of another version of featx: use that one."
        )


def _decode(
    data: bytes | NDArray[Any] | Image.Image, target: Preprocess | None
) -> tuple[Image.Image, Box | None]:
    """Decode for a target, or in full size if there is none."""
    if isinstance(data, np.ndarray):
        return to_rgb(_from_array(data)), None
    if isinstance(data, bytes) and not data:
        raise ImageError("the file is empty")
    try:
        if isinstance(data, Image.Image):
            return to_rgb(ImageOps.exif_transpose(data)), None
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{image.width}×{image.height} pixels are more than {MAX_PIXELS:,} allowed")
            box = _let_scale(image, target) if target is not None else None
            image.load()
            return to_rgb(ImageOps.exif_transpose(image)), box
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"not an image in a format that featx reads ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"more than the {MAX_PIXELS:,} pixels that are allowed") from None
    except _DECODER_ERRORS as error:
        detail = " ".join(str(error).split())[:200]
        raise ImageError(f"broken image: {detail or type(error).__name__}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an opened image of any mode to RGB by the rules of this module.

    Raises
    ------
    ImageError
        If the mode cannot be converted.
    """
    mode = image.mode
    if mode == "RGB" and not image.has_transparency_data:
        return image
    if mode in ("I", "F") or mode.startswith("I;"):
        return Image.fromarray(_to_uint8(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if mode == "LAB":
        converted = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        if converted is None:
            raise ImageError("broken image: the Lab colours cannot be converted")
        return converted
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"pixels of mode {mode} cannot be converted to RGB") from error


def _let_scale(image: Image.Image, target: Preprocess) -> Box | None:
    """Let the decoder of a large JPEG scale; gives where the photo will lie once it is upright."""
    if not isinstance(image, JpegImageFile) or image.mode not in ("RGB", "L"):
        return None
    scale = choose_scale(*image.size, target)
    if scale == 1:
        return None
    drafted = image.draft(None, (image.width // scale, image.height // scale))
    if drafted is None:
        return None
    return turn_box(drafted[1], image.size, image.getexif().get(ExifTags.Base.Orientation))


def _from_array(array: NDArray[Any]) -> Image.Image:
    squeezed = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if squeezed.ndim not in (2, 3) or (squeezed.ndim == 3 and squeezed.shape[-1] not in (3, 4)):
        raise ImageError(f"an array of shape {array.shape} is no image: (H, W), (H, W, 3) or (H, W, 4) is")
    if squeezed.size == 0:
        raise ImageError(f"an array of shape {array.shape} has no pixels")
    if squeezed.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(squeezed))
    if _is_uint16(squeezed):
        return Image.fromarray((squeezed / 257 + 0.5).astype(np.uint8))
    if np.issubdtype(squeezed.dtype, np.floating):
        low, high = float(squeezed.min()), float(squeezed.max())
        if not (low >= 0 and high <= 1):  # also true for NaN
            raise ImageError(f"float pixels must lie between 0 and 1, these lie between {low:g} and {high:g}")
        return Image.fromarray((squeezed * 255 + 0.5).astype(np.uint8))
    raise ImageError(f"pixels of dtype {squeezed.dtype} are not supported: uint8, uint16 and float are")


def _is_uint16(values: NDArray[Any]) -> bool:
    """Whatever the byte order: TIFFs of instruments are often big-endian."""
    return values.dtype.kind == "u" and values.dtype.itemsize == 2


def _to_uint8(values: NDArray[Any]) -> NDArray[np.uint8]:
    if _is_uint16(values):
        return np.asarray(values / 257 + 0.5, dtype=np.uint8)
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("no pixel is a finite number")
    numbers = np.where(finite, values, 0).astype(np.float64)
    low, high = float(numbers[finite].min()), float(numbers[finite].max())
    span = high - low if high > low else 1.0
    scaled = np.clip((numbers - low) / span * 255, 0, 255)
    return (np.where(finite, scaled, 0) + 0.5).astype(np.uint8)
