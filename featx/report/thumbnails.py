"""Small copies of a run's images, read from their source and kept inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from PIL import Image

from featx.errors import FeatxError
from featx.records import Preprocess, escape_name

if TYPE_CHECKING:
    from featx.images.sources import RawImage, Source
    from featx.records import ImageRecord

SIDE = 96
"""Pixels along the longer side."""

MOST_BYTES = 2_000_000
"""Of all thumbnails of a page, as they stand in it: a report is to stay below 5 MB."""

MOST_LISTED = 200_000
"""Images of a source that are looked through for those of the report, a second's work."""

_QUALITY = 78
_SMALL = 48
"""Pixels to which tiny images are enlarged."""


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """What could be read.

    Parameters
    ----------
    images : mapping of str to str
        The ``data:`` address of each image by its printable name.
    word : str
        Why there are none, or fewer than were asked for; empty if all are there.
    """

    images: Mapping[str, str] = field(default_factory=dict)
    word: str = ""


def read_thumbnails(places: Sequence[str], names: Collection[str], *, budget: int = MOST_BYTES) -> Thumbnails:
    """Read small copies of some images from the first place that holds any of them.

    Parameters
    ----------
    places : sequence of str
        Sources, as :func:`featx.images.sources.open_source` takes them.
    names : collection of str
        Printable names, as ``results.json`` holds them: relative to the source. Only what the source itself
        lists is read, so that a name which leads out of it finds nothing. Bytes are not compared with those
        that were embedded.
    budget : int, default=2,000,000
        Bytes that all of them may take.

    Returns
    -------
    Thumbnails
        Never an error: a report does without them.

    Examples
    --------
    >>> read_thumbnails(["no/such/place"], ["a.jpg"]).word
    'no/such/place does not exist; give a folder with a folder of images per class'
    """
    if not names:
        return Thumbnails()
    reasons = []
    for place in places:
        try:
            images, missing = _read(place, names, budget)
        except (FeatxError, OSError) as error:
            reasons.append(str(error))
            continue
        if images:
            word = f"{missing} of {len(set(names))} images could not be read" if missing else ""
            return Thumbnails(images, word)
        reasons.append(f"{escape_name(place)} holds none of these images")
    return Thumbnails(word=reasons[0] if reasons else "the run names no place that can be read at once")


def as_thumbnail(raw: RawImage) -> str:
    """Make a JPEG of at most 96 × 96 pixels, as a ``data:`` address.

    Raises
    ------
    ImageError
        If it cannot be decoded.

    Examples
    --------
    >>> import numpy as np
    >>> as_thumbnail(np.zeros((300, 200, 3), dtype=np.uint8))[:23]
    'data:image/jpeg;base64,'
    """
    from featx.images.decoding import FAST_POLICY, decode_for

    target = Preprocess("pad", SIDE, SIDE, "bilinear", (0.0,) * 3, (1.0,) * 3)
    decoded = decode_for(raw, target, FAST_POLICY)
    image = decoded.image
    longest = max(image.size)
    # Tiny images are shown enlarged without blur: a digit of 8 × 8 pixels is a thumbnail already.
    scale = SIDE / longest if longest > SIDE else max(1, _SMALL // longest)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    file = io.BytesIO()
    image.resize(size, how).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def known_places(sources: object) -> list[str]:
    """Choose from the sources that a run names those that can be read at once, and from this machine.

    A report is drawn without a network, and without reading through a compressed archive.

    Examples
    --------
    >>> known_places(["photos", "https://example.org/photos.zip", "photos.tar.gz"])
    ['photos']
    """
    listed = [sources] if isinstance(sources, str) else sources
    if not isinstance(listed, Sequence):
        return []
    slow = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz")
    return [
        place
        for place in listed
        if isinstance(place, str) and "://" not in place and not place.lower().endswith(slow)
    ]


def _read(place: str, names: Collection[str], budget: int) -> tuple[dict[str, str], int]:
    """Give the thumbnails of a place, and of how many names there are none."""
    from featx.images.sources import open_source

    source = open_source(place)
    images: dict[str, str] = {}
    spent = 0
    for name, record in _find(source, set(names)):
        try:
            image = as_thumbnail(source.read(record))
        except (FeatxError, OSError):
            continue  # Gone or changed since; the report says of how many.
        if spent + len(image) > budget:
            break
        spent += len(image)
        images[name] = image
    return images, len(set(names)) - len(images)


def _find(source: Source, wanted: set[str]) -> Iterator[tuple[str, ImageRecord]]:
    for record in islice(source, MOST_LISTED):
        name = escape_name(record.name)
        if name in wanted:
            wanted.discard(name)
            yield name, record
            if not wanted:
                return
