"""Which formats are read, how they are recognised, and what is wrong with a file, in plain words."""

from __future__ import annotations

import struct
import zlib

from PIL import (  # the plugins register what they open
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageCms,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
    features,
)

from featx.errors import ImageError
from featx.records import escape_name

__all__ = ["DECODER_ERRORS", "FORMATS", "explain", "recognise"]

FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Pillow's names of the formats that are read; none of them starts another program.

``AVIF`` is among them where Pillow was built with it. An MPO is a JPEG followed by others.
"""

if "avif" in features.modules and features.check_module("avif"):
    from PIL import AvifImagePlugin  # noqa: F401

    FORMATS = (*FORMATS, "AVIF")

DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    ImageCms.PyCMSError,
)
"""What Pillow's decoders raise on broken files; warnings, where they are made errors."""

_IN_PLAIN_WORDS = {
    "image file is truncated": "broken image: the file is truncated, its end is missing",
    "Truncated File Read": "broken image: the file is truncated, its end is missing",
    "requires a buffer": "broken image: the file is truncated, its end is missing",
    "index out of range": "broken image: the file is truncated or damaged",
    "not identified by this driver": "broken image: no width, no height, or an unknown kind of pixels",
    "Missing dimensions": "broken image: no width, no height, or an unknown kind of pixels",
    "unknown pixel mode": "pixels of this depth and kind cannot be read; save it with 8 or 16 bits",
    "MAX_TEXT": "broken image: a text or profile in it is absurdly long (over 1 MiB)",
    "data stream": "broken image: the data of the pixels is damaged",
    "decoder error": "broken image: the data of the pixels is damaged",
    "could not create decoder": "broken image: its header is damaged",
    "BMFF parsing failed": "broken image: its header is damaged",
    "out of memory": "not enough memory to decode it",
}
"""By a part of Pillow's message."""


def recognise(data: bytes) -> str:
    """Name the format of an encoded image by its first bytes, whatever its name.

    Returns
    -------
    str
        One of :data:`FORMATS`.

    Raises
    ------
    ImageError
        If it is none of them; says what it is instead, where that is seen.

    Examples
    --------
    >>> recognise(b"GIF89a and so on")
    'GIF'
    """
    if not data:
        raise ImageError("the file is empty")
    for name in FORMATS:
        _, accepts = Image.OPEN[name]
        if accepts is not None and accepts(data[:16]) is True:
            return name
    text = data[:1000].lstrip(b"\xef\xbb\xbf\t\n\r ")
    if text.startswith(b"version https://git-lfs"):
        raise ImageError("not an image but Git LFS's pointer to one; run `git lfs pull`")
    if text.startswith(b"<") and b"<svg" in text.lower():
        raise ImageError("not an image of pixels but a drawing (SVG); convert it to PNG")
    if text.startswith(b"<"):
        raise ImageError("not an image but text that begins with '<', as a web page does; download it again")
    raise ImageError(f"not an image in a format that featx reads ({', '.join(FORMATS)})")


def explain(error: BaseException) -> str:
    """Say what a decoder complains of, for the list of the skipped."""
    said = " ".join(str(error).split())[:200]
    for part, words in _IN_PLAIN_WORDS.items():
        if part in said:
            return words
    if said.isdigit():
        return f"broken image: its tag {said} is missing"
    return f"broken image: {escape_name(said) or type(error).__name__}"
