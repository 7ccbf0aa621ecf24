"""Which array of an ``.npz`` is what: people name them in many ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from featx.errors import SourceError
from featx.images.labels import read_texts
from featx.images.layout import SPLIT_FOLDERS
from featx.images.stacks import Stack
from featx.images.stored import StoredArray
from featx.images.texts import TEXT_KINDS
from featx.records import SPLITS, escape_name

__all__ = ["CLASSES", "GROUPS", "IMAGES", "LABELS", "NAMES", "SPLIT_NAMES", "Part", "find_parts"]

IMAGES = ("images", "image", "imgs", "x", "data", "pixels", "arr_0")
"""Names of images, in any case, where several arrays could be images."""

LABELS = ("labels", "label", "y", "targets", "target")
"""Names of labels; ``arr_1`` is one beside ``arr_0``, as ``numpy.savez(file, X, y)`` calls them."""

SPLIT_NAMES = ("splits", "split")
GROUPS = ("groups", "group")
NAMES = ("names", "filenames")

CLASSES = ("class_names", "classes", "label_names", "categories")
"""Names of the list of class names."""

_Arrays = Mapping[str, StoredArray]


@dataclass(frozen=True, slots=True)
class Part:
    """Images of one split, or all of them, and what is said of each."""

    split: str
    stack: Stack
    labels: StoredArray | None = None
    splits: StoredArray | None = None
    groups: StoredArray | None = None
    names: StoredArray | None = None
    columns: _Arrays | None = None


def find_parts(arrays: _Arrays, where: str) -> tuple[list[Part], Sequence[str]]:
    """Find images and all that belongs to them.

    Parameters
    ----------
    arrays : mapping of str to StoredArray
        Of :func:`featx.images.stored.open_arrays`.
    where : str
        What an error calls the file.

    Returns
    -------
    parts : list of Part
        One, or one for each split.
    classes : sequence of str
        What labels that are integers stand for; empty if nothing says so.

    Raises
    ------
    SourceError
        If there are no images, if something can be meant in two ways, or is not there once for each image.
    """
    if "" in arrays:
        return [Part("", Stack(arrays[""]))], ()
    found = {}
    for split, named in _by_split(arrays, where).items():
        images = _find_images(named, where)
        labels = _only((*LABELS, "arr_1") if images == "arr_0" else LABELS, named, where)
        if images is not None:
            found[split] = (named, images, labels)
        elif split and labels is not None:
            raise SourceError(
                f"{where} has labels of the split {split} and no images of it; add them, or leave it out"
            )
    if not found:
        raise SourceError(
            f"{where} holds {_listed(f'{name} {array}' for name, array in arrays.items())}; expected images, "
            "(N, H, W) or (N, H, W, 3): reshape rows of pixels, and save images of several sizes as files"
        )
    numbered = any(labels and named[labels].dtype.kind not in "SU" for named, _, labels in found.values())
    classes = _find_classes(arrays) if numbered else None
    parts = [_part(split, *some, classes, where) for split, some in found.items()]
    return parts, list(read_texts(arrays[classes])) if classes else ()


def _part(
    split: str, named: _Arrays, images: str, labels: str | None, classes: str | None, where: str
) -> Part:
    stack = Stack(named[images])
    used = {images, labels, classes}
    if labels is not None:
        shape = named[labels].shape
        if len(shape) not in (1, 2) or shape[0] != len(stack):
            raise SourceError(
                f"{named[labels].called} has the shape {shape} beside {len(stack)} images; expected one "
                "label for each"
            )
    said: dict[str, StoredArray | None] = {}
    for field, names in (("splits", SPLIT_NAMES), ("groups", GROUPS), ("names", NAMES)):
        name = _only(names, named, where)
        said[field] = None
        if name is None or (field == "names" and not _is_each(named[name], stack, "SU")):
            continue
        if not _is_each(named[name], stack):
            raise SourceError(
                f"{named[name].called} is {named[name]} beside {len(stack)} images; expected numbers or "
                "text, one for each"
            )
        said[field] = named[name]
        used.add(name)
    columns = {
        name: array for name, array in named.items() if name and name not in used and _is_each(array, stack)
    }
    return Part(split, stack, named[labels] if labels else None, **said, columns=columns)


def _by_split(arrays: _Arrays, where: str) -> dict[str, _Arrays]:
    """Sort arrays by the split in their name, which is taken off, if any images have one there."""
    parsed = {key: _parse(key) for key in arrays}
    if not any(word and _is_stack(arrays[key]) for key, (word, _) in parsed.items()):
        return {"": arrays}
    named: dict[str, dict[str, StoredArray]] = {split: {} for split in SPLITS}
    keys: dict[tuple[str, str], str] = {}
    for key, (word, name) in parsed.items():
        if word:
            split = SPLIT_FOLDERS[word]
            before = keys.setdefault((split, name.lower()), key)
            if before != key:
                raise SourceError(f"{where} has both {escape_name(before)} and {escape_name(key)}; keep one")
            named[split][name] = arrays[key]
        elif name.lower() in IMAGES and _is_stack(arrays[key]):
            raise SourceError(
                f"{where} has the images {escape_name(key)} beside those of splits; rename them to "
                "train_images, val_images or test_images"
            )
    return {split: some for split, some in named.items() if some}


def _parse(key: str) -> tuple[str, str]:
    """Split ``x_train`` or ``train_x`` into ``train`` and ``x``; the first is empty if there is none."""
    lowered = key.lower()
    for word in SPLIT_FOLDERS:
        if lowered == word:
            return word, ""
        if lowered.startswith(f"{word}_"):
            return word, key[len(word) + 1 :]
        if lowered.endswith(f"_{word}"):
            return word, key[: -len(word) - 1]
    return "", key


def _find_images(named: _Arrays, where: str) -> str | None:
    stacks = [name for name, array in named.items() if _is_stack(array)]
    known = [name for name in stacks if name.lower() in IMAGES]
    if len(stacks) <= 1 or len(known) == 1:
        return next(iter(known or stacks), None)
    raise SourceError(
        f"{where} may have its images in any of {_listed(stacks)}; rename the right one to images"
    )


def _only(names: Sequence[str], named: _Arrays, where: str) -> str | None:
    """Find the array that has one of the names."""
    found = [name for name in named if name.lower() in names]
    if len(found) > 1:
        raise SourceError(f"{where} has {_listed(found)}, which mean the same; keep one")
    return found[0] if found else None


def _find_classes(arrays: _Arrays) -> str | None:
    for name in CLASSES:
        for key, array in arrays.items():
            if key.lower() == name and len(array.shape) == 1 and array.dtype.kind in "SU":
                return key
    return None


def _is_stack(array: StoredArray) -> bool:
    return len(array.shape) in (3, 4) and array.dtype.kind in "biuf"


def _is_each(array: StoredArray, stack: Stack, kinds: str = TEXT_KINDS) -> bool:
    """Whether an array has one value for each image."""
    return (
        array.shape in ((len(stack),), (len(stack), 1))
        and array.dtype.kind in kinds
        and array.dtype.itemsize > 0
    )


def _listed(names: Iterable[str]) -> str:
    shown = [escape_name(name) for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "") or "no arrays"
