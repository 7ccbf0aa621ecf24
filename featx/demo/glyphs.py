"""Glyphs of the fonts that Matplotlib carries, as classes of the source task; none of them is a digit.

Whole blocks of Unicode are taken, not single characters: letters of many scripts, arrows, mathematical
operators and symbols. A character that has a numeric value, that decomposes into one, or whose name speaks
of a number is left out, because digits are what the demo transfers to. Characters that look alike
(Latin A, Greek Alpha, Cyrillic A) are one class.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

__all__ = ["SIZE", "alphabet", "fonts", "fonts_with", "is_numeric", "render_glyph"]

SIZE = 64
"""Height and width of every rendered image, in pixels."""

_DRAWN = 80
"""Font size at which a glyph is drawn before it is fitted into the image, in pixels."""

_REFERENCE = "DejaVuSans.ttf"

_BLOCKS = (
    (0x0021, 0x007E),  # ASCII
    (0x00A1, 0x00FF),  # Latin-1
    (0x0180, 0x02AF),  # Latin extended B, IPA
    (0x0370, 0x03FF),  # Greek
    (0x0400, 0x052F),  # Cyrillic
    (0x0531, 0x0587),  # Armenian
    (0x05D0, 0x05EA),  # Hebrew
    (0x0621, 0x064A),  # Arabic
    (0x07CA, 0x07EA),  # N'Ko
    (0x0E81, 0x0EB0),  # Lao
    (0x10A0, 0x10FF),  # Georgian
    (0x2190, 0x21FF),  # arrows
    (0x2200, 0x226D),  # mathematical operators
    (0x25A0, 0x25FF),  # geometric shapes
    (0x2600, 0x26FF),  # miscellaneous symbols
    (0x2D30, 0x2D67),  # Tifinagh
    (0xA4D0, 0xA4F7),  # Lisu
)

_CATEGORIES = frozenset({"Lu", "Ll", "Lo", "Sm", "Sc", "So", "Po", "Ps"})

_NUMBER_WORDS = frozenset(
    {
        *("DIGIT", "NUMBER", "NUMERAL", "NUMERO"),
        *("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "TEN"),
        *("CUBE", "THIRD", "FOURTH", "HALF", "QUARTER"),  # roots and parts are drawn with a digit
        *("TONE", "DIE"),  # Zhuang tone letters have the forms of digits; dice count their dots
    }
)

_ALIKE = 0.8
"""Correlation of two blurred glyphs from which they count as one class."""

_LEAST = 0.35
"""Smallest extent, as a share of the font size, of a glyph that is more than a dot or a dash."""

# In these fonts only the ASCII letters lie where Unicode has them.
_LETTERS_ONLY = frozenset({"cmb10.ttf", "cmmi10.ttf", "cmr10.ttf", "cmss10.ttf", "cmti10.ttf", "cmtt10.ttf"})


def is_numeric(character: str) -> bool:
    """Say whether a character is a number in any form.

    Parameters
    ----------
    character : str
        One character.

    Returns
    -------
    bool
        True for digits of all scripts, Roman numerals, fractions, superscript and circled numbers, and
        for letters named after a number.

    Examples
    --------
    >>> [is_numeric(c) for c in "7²½Ⅷ①٣Ƨa"]
    [True, True, True, True, True, True, True, False]
    """
    for part in {character, *unicodedata.normalize("NFKD", character)}:
        if unicodedata.category(part) in {"Nd", "Nl", "No"}:
            return True
        if unicodedata.numeric(part, None) is not None or unicodedata.digit(part, None) is not None:
            return True
    words = unicodedata.name(character, "").replace("-", " ").split()
    return not _NUMBER_WORDS.isdisjoint(words) or any(word.isdecimal() for word in words)


@functools.cache
def fonts() -> tuple[Path, ...]:
    """List the font files that are used, in order of their names.

    Returns
    -------
    tuple of Path
        DejaVu, STIX and Computer Modern from Matplotlib's data folder, without fonts of private encodings.
    """
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    kept = (
        path
        for path in folder.glob("*.ttf")
        if path.name in _LETTERS_ONLY
        or (path.name.startswith(("DejaVu", "STIXGeneral")) and "Display" not in path.name)
    )
    return tuple(sorted(kept))


@functools.cache
def _charmap(path: Path) -> frozenset[int]:
    codes = FT2Font(str(path)).get_charmap()
    if path.name in _LETTERS_ONLY:
        return frozenset(code for code in codes if code < 128 and chr(code).isalpha())
    return frozenset(codes)


@functools.cache
def fonts_with(character: str) -> tuple[Path, ...]:
    """List the fonts that have a glyph for a character.

    Parameters
    ----------
    character : str
        One character.

    Returns
    -------
    tuple of Path
        A part of :func:`fonts`, in the same order.
    """
    return tuple(path for path in fonts() if ord(character) in _charmap(path))


@functools.cache
def alphabet() -> tuple[str, ...]:
    """List the characters that are classes of the source task, in Unicode order.

    Returns
    -------
    tuple of str
        Single characters of which no two look alike and none is numeric.

    Examples
    --------
    >>> "B" in alphabet(), "5" in alphabet()
    (True, False)
    """
    kept: list[str] = []
    signatures = np.empty((0, 24 * 24), np.float32)
    for character in _candidates():
        signature = _signature(character)
        if signature is None or (len(kept) and float((signatures @ signature).max()) > _ALIKE):
            continue
        kept.append(character)
        signatures = np.vstack([signatures, signature])
    return tuple(kept)


def _candidates() -> Iterator[str]:
    for first, last in _BLOCKS:
        for code in range(first, last + 1):
            character = chr(code)
            if (
                unicodedata.category(character) in _CATEGORIES
                and unicodedata.normalize("NFKD", character) == character
                and " WITH " not in unicodedata.name(character, "")
                and not is_numeric(character)
                and any(path.name == _REFERENCE for path in fonts_with(character))
            ):
                yield character


def _signature(character: str) -> npt.NDArray[np.float32] | None:
    """Blurred, standardised 24×24 picture of a glyph as a unit vector; None for dots and dashes."""
    path = next(path for path in fonts_with(character) if path.name == _REFERENCE)
    glyph = _draw(path, character)
    if glyph is None or max(glyph.size) < _LEAST * _DRAWN:
        return None
    picture = _fit(glyph, 56, (0, 0)).resize((24, 24), Image.Resampling.BOX)
    values = np.asarray(picture, np.float32).ravel()
    values -= values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)


@functools.cache
def _font(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), _DRAWN, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=20_000)
def _draw(path: Path, character: str) -> Image.Image | None:
    """Draw a glyph, white on black and cropped to its ink; None without ink."""
    canvas = Image.new("L", (3 * _DRAWN, 3 * _DRAWN))
    ImageDraw.Draw(canvas).text((_DRAWN, _DRAWN), character, fill=255, font=_font(path))
    box = canvas.getbbox()
    return None if box is None else canvas.crop(box)


def _fit(glyph: Image.Image, extent: int, offset: tuple[int, int]) -> Image.Image:
    """Scale a glyph so that its longer side is ``extent`` and centre it, but for ``offset``."""
    scale = extent / max(glyph.size)
    width, height = (max(1, round(side * scale)) for side in glyph.size)
    picture = Image.new("L", (SIZE, SIZE))
    corner = ((SIZE - width) // 2 + offset[0], (SIZE - height) // 2 + offset[1])
    picture.paste(glyph.resize((width, height), Image.Resampling.BILINEAR), corner)
    return picture


def render_glyph(character: str, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Render a character in a random font and size.

    Parameters
    ----------
    character : str
        One of :func:`alphabet`.
    rng : numpy.random.Generator
        Source of the font, the extent (40 to 60 pixels) and the offset (up to 2 pixels).

    Returns
    -------
    ndarray of uint8, shape (64, 64)
        White ink on black.

    Examples
    --------
    >>> image = render_glyph("Ж", np.random.default_rng(0))
    >>> image.shape, int(image.max()) > 200
    ((64, 64), True)
    """
    paths = fonts_with(character)
    glyph = _draw(paths[int(rng.integers(len(paths)))], character)
    if glyph is None:  # a font may map a character to an empty glyph; the reference font has ink
        glyph = _draw(next(path for path in paths if path.name == _REFERENCE), character)
    if glyph is None:
        return np.zeros((SIZE, SIZE), np.uint8)
    dx, dy = (int(step) for step in rng.integers(-2, 3, size=2))
    return np.asarray(_fit(glyph, int(rng.integers(40, 61)), (dx, dy)), np.uint8)
