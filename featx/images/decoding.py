"""One encoded image to RGB; every conversion rule of featx stands in this file.

===================  ======================================================================
what                 what becomes of it
===================  ======================================================================
EXIF orientation     applied
CMYK                 RGB; the inversion of Adobe's JPEGs is undone, TIFFs have none
8-bit YCbCr, Lab     sRGB
16-bit grey          0 to 65,535 becomes 0 to 255
12-bit grey          of a TIFF that says so: 0 to 4,095 becomes 0 to 255
16-bit colour        the upper 8 bits
32-bit, float        the image's own finite range becomes 0 to 255; no number is black
white is zero        a TIFF that says so is inverted, whatever its depth
alpha, transparency  laid on white
palette, 1-bit       expanded
animation, pages     the first
colour profiles      ignored: networks are trained on pixels as stored
over 89 megapixels   refused
===================  ======================================================================

A 16-bit value has the same grey in every image, so that a classifier can tell by the brightness what a
detector has measured. An image of a camera with 12 bits in a file that declares 16 is therefore dark, and
16 levels are left of it: multiply such images by 16 first. PNG's ``sBIT`` changes nothing, since the
samples of a PNG fill the whole range, whatever the depth they come from (Portable Network Graphics
Specification, third edition, 11.3.2.7). 32 bits and floats have no range that says where white is; only
there the image's own range counts.

A policy is the version of these rules and part of every space: whoever changes what comes out changes
its name.

===================  ======================================================================
policy               what it is
===================  ======================================================================
``2``                these rules: :data:`POLICY`. Before, ``1`` left 12-bit grey black, inverted
                     no grey of more than 8 bits, and overlooked the transparent colour of PNGs
                     in grey of 2, 4 and 16 bits and in 16-bit colour
``2+dct``            the same; but of photos much larger than the network's input, 8-bit
                     JPEGs in RGB or grey are scaled down by the decoder, as
                     :mod:`featx.images.scaling` says: :data:`FAST_POLICY`
===================  ======================================================================
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin
from PIL.JpegImagePlugin import JpegImageFile

from featx.errors import ImageError, UnknownNameError
from featx.images.formats import DECODER_ERRORS, explain, recognise
from featx.images.scaling import Box, choose_scale, turn_box
from featx.records import Preprocess

POLICY = "2"
"""Version of the decoding rules, part of the space."""

FAST_POLICY = f"{POLICY}+dct"
"""The same rules with large JPEGs scaled by their decoder: ``--fast-decode``."""

POLICIES = (POLICY, FAST_POLICY)
"""All that this featx decodes by."""

MAX_PIXELS = 89_478_485
"""Pixels of the largest image that is decoded: Pillow's own limit, 256 MiB as RGB."""

_STRIP_PIXELS = 2**20
"""Pixels converted at once where a conversion needs several copies of them."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, as :func:`PIL.ImageOps.exif_transpose`, which also writes the EXIF anew and so fails
on images whose EXIF is broken elsewhere."""

_SHORT_GREYS = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey of fewer than 8 bits by, but not the transparent one."""


class Decoded(NamedTuple):
    """An image in RGB, and what it was.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode ``RGB``, upright.
    box : tuple of 4 floats, or None
        Where the photo lies in an image that its decoder scaled, for
        :func:`featx.images.geometry.prepare`; None if the image has its full size.
    width, height : int
        Of the upright image in its full size, in pixels.
    mode : str
        Pillow's name of what the file holds: ``RGB``, ``L``, ``CMYK``, ``I;16``, …
    """

    image: Image.Image
    box: Box | None
    width: int
    height: int
    mode: str


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
    return _decode(data, None).image


def decode_for(
    data: bytes | NDArray[Any] | Image.Image, preprocess: Preprocess, policy: str = POLICY
) -> Decoded:
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
    Decoded

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
    >>> decoded = decode_for(file.getvalue(), imagenet, FAST_POLICY)
    >>> decoded.image.size, decoded.box, decoded.width, decoded.height, decoded.mode
    ((1025, 800), (0, 0, 1024.5, 800.0), 2049, 1600, 'RGB')
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


def _decode(data: bytes | NDArray[Any] | Image.Image, target: Preprocess | None) -> Decoded:
    """Decode for a target, or in full size if there is none."""
    if isinstance(data, np.ndarray):
        return _convert(_from_array(data))
    try:
        if isinstance(data, Image.Image):
            data.load()  # the same whether the caller has done so or not
            return _convert(data)
        open_, _ = Image.OPEN[recognise(data)]
        with open_(io.BytesIO(data), "") as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{image.width}×{image.height} pixels are more than {MAX_PIXELS:,} allowed")
            return _convert(image, target)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("not enough memory to decode it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"more than the {MAX_PIXELS:,} pixels that are allowed") from None
    except DECODER_ERRORS as error:
        raise ImageError(explain(error)) from error


class _Stored(NamedTuple):
    """What a file says of its values, and Pillow's image of them does not."""

    white: int = 65_535
    is_negative: bool = False
    transparency: Any = None


def _stored(image: Image.Image) -> _Stored:
    """Read that off an image; what concerns PNGs, before it is loaded."""
    tiles = getattr(image, "tile", None)
    raw = tiles[0][3] if tiles else None
    key = image.info.get("transparency")
    if isinstance(raw, str) and raw in _SHORT_GREYS and isinstance(key, int):
        key *= _SHORT_GREYS[raw]
    elif raw == "RGB;16B" and isinstance(key, tuple):
        key = tuple(part >> 8 for part in key)
    tags = getattr(image, "tag_v2", {})
    white = 4095 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65_535
    # Of 8 bits and fewer Pillow inverts them.
    is_negative = image.mode in ("I;16", "F") and tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    return _Stored(white, is_negative, key)


def _convert(image: Image.Image, target: Preprocess | None = None) -> Decoded:
    mode, size, stored = image.mode, image.size, _stored(image)
    box = _let_scale(image, target) if target is not None else None
    image.load()
    # Of a TIFF Pillow has applied it by now.
    orientation = _orientation(image)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    width, height = image.size
    if box is not None:
        width, height = size[::-1] if orientation >= 5 else size
    return Decoded(_to_rgb(image, stored), box, width, height, mode)


def _orientation(image: Image.Image) -> int:
    """Give EXIF's orientation, 1 to 8; 1 where the EXIF cannot be read, which is no harm to the pixels."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except DECODER_ERRORS:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _to_rgb(image: Image.Image, stored: _Stored) -> Image.Image:
    """Convert a loaded image of any mode."""
    mode = image.mode
    if mode == "RGB" and not image.has_transparency_data:
        return image
    if mode in ("I", "F") or mode.startswith("I;"):
        return _from_grey(image, stored)
    if image.has_transparency_data:
        return _on_white(image, stored)
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


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Cut an image into copies of some rows each, with the place of the first."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _on_white(image: Image.Image, stored: _Stored) -> Image.Image:
    result = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        if stored.transparency is not None:
            strip.info["transparency"] = stored.transparency
        # Pillow does not convert premultiplied grey to RGBA at once.
        rgba = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        result.paste(Image.alpha_composite(white, rgba).convert("RGB"), (0, top))
    return result


def _from_grey(image: Image.Image, stored: _Stored) -> Image.Image:
    """Convert grey of 16 bits by the range of its type, of more or of floats by its own."""
    is_short = image.mode.startswith("I;")
    low, high = (0.0, float(stored.white)) if is_short else _finite_range(image)
    result = Image.new("L", image.size)
    for top, strip in _strips(image):
        values = np.asarray(strip).astype(np.float64)
        finite = np.isfinite(values)
        scaled = (np.where(finite, values, low) - low) / (high - low) * 255
        grey = ((255 - scaled if stored.is_negative else scaled) + 0.5).astype(np.uint8)
        grey[~finite] = 0
        if isinstance(stored.transparency, int):
            grey[values == stored.transparency] = 255
        result.paste(Image.fromarray(grey), (0, top))
    return result.convert("RGB")


def _finite_range(image: Image.Image) -> tuple[float, float]:
    """Least and largest number of an image."""
    low, high = np.inf, -np.inf
    for _, strip in _strips(image):
        values = np.asarray(strip)
        numbers = values[np.isfinite(values)]
        if numbers.size:
            low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
    if low > high:
        raise ImageError("no pixel is a finite number")
    return low, high if high > low else np.inf  # all of it is black


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
    return turn_box(drafted[1], image.size, _orientation(image))


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
