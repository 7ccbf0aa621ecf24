"""The JPEGs that the extraction benchmarks embed: rendered or given, no two files alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

RENDERED = 2000
"""Different renderings at most; whoever asks for more gets them again with another comment."""

_PER_CANVAS = 500


def with_comment(photo: bytes, text: str) -> bytes:
    """Give the same picture as another file: a comment segment after the JPEG's first segment."""
    comment = text.encode()
    place = 4 + int.from_bytes(photo[4:6], "big")
    return photo[:place] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + photo[place:]


def put_photos(data: str | None, count: int, folder: Path) -> str:
    """Put ``count`` JPEGs with digests of their own into a flat folder; gives what they are.

    Twins would be computed once by featx and twice by the others. What is there too few times comes
    again with another comment: as many bytes to read and pixels to decode, another digest.
    """
    folder.mkdir()
    if data is None:
        different = min(count, RENDERED)
        _render(different, folder)
        what = "synthetic JPEGs of 500×375"
    else:
        files = _different(Path(data))
        different = min(count, len(files))
        for place in range(different):
            # At equal distances, so that every class takes part.
            (folder / _name(place)).write_bytes(files[place * len(files) // different].read_bytes())
        what = f"JPEGs of {Path(data).name}"
    for place in range(different, count):
        photo = (folder / _name(place % different)).read_bytes()
        (folder / _name(place)).write_bytes(with_comment(photo, str(place)))
    return f"{count} {what}" + (f", {different} different ones" if different < count else "")


def put_first(photos: Path, count: int, folder: Path) -> Path:
    """Link the first ``count`` photos into a folder of their own."""
    folder.mkdir()
    for photo in sorted(photos.iterdir())[:count]:
        (folder / photo.name).symlink_to(photo)
    return folder


def _name(place: int) -> str:
    return f"{place:07}.jpg"


def _render(count: int, folder: Path) -> None:
    from featx.images.synthetic import synthetic_photos

    for start in range(0, count, _PER_CANVAS):
        for place, photo in enumerate(synthetic_photos(min(_PER_CANVAS, count - start), seed=start), start):
            (folder / _name(place)).write_bytes(photo)


def _different(data: Path) -> Sequence[Path]:
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    different = list({hashlib.sha256(path.read_bytes()).digest(): path for path in files}.values())
    if not different:
        raise SystemExit(f"{data} holds no JPEG; give another --data, or none.")
    return different
