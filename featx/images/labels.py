"""What the arrays beside images say of each: labels, groups and other columns, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from featx.errors import SourceError
from featx.images.stored import StoredArray
from featx.images.texts import TEXT_KINDS, as_texts, is_whole

__all__ = ["read_labels", "read_texts"]

_NUMBERS = "biuf"


def read_labels(array: StoredArray, classes: Sequence[str] = ()) -> Iterator[str]:
    """Read the label of each image; an empty one is none.

    Parameters
    ----------
    array : StoredArray
        (N,) or (N, 1) of integers, integral floats (NaN is none), booleans (0 and 1) or text; or one-hot
        (N, C): a single 1 in each row, and else 0.
    classes : sequence of str
        What the integers stand for, from 0 on; integers stay what they are if there are none.

    Raises
    ------
    SourceError
        If they are of another kind: several labels an image, probabilities, objects of Python.
    """
    _require(array, _NUMBERS + "SU")
    is_column = len(array.shape) == 1 or array.shape[1:] == (1,)
    if is_column and array.dtype.kind in "SU":
        return read_texts(array)
    if is_column:
        numbers = _integers(array)
    elif len(array.shape) == 2 and array.dtype.kind in _NUMBERS:
        numbers = _one_hot(array)
    else:
        raise SourceError(f"{array.called} has the shape {array.shape}; expected one class per image: (N,)")
    return _named(numbers, classes, array.called) if classes else numbers


def read_texts(array: StoredArray) -> Iterator[str]:
    """Read an array (N,) or (N, 1) as text; see :func:`featx.images.texts.as_texts`.

    Raises
    ------
    SourceError
        If it holds objects of Python, or text that no store can hold.
    """
    _require(array, TEXT_KINDS)
    whole = array.dtype.kind == "f" and all(map(is_whole, array.blocks()))
    start = 0
    for block in array.blocks():
        try:
            texts = as_texts(block.reshape(-1), whole=whole)
        except (ValueError, SystemError) as error:  # a time without a unit, or what is no character
            raise SourceError(
                f"{array.called} cannot be read as text ({error}); save it as plain text"
            ) from error
        for position, text in enumerate(texts, start):
            if not _is_storable(text):
                raise SourceError(
                    f"{array.called} holds a NUL character or half of a surrogate pair at {position}; "
                    "save it as plain text"
                )
            yield text
        start += len(block)


def _integers(array: StoredArray) -> Iterator[str]:
    """Give labels that are numbers as the text of integers."""
    start = 0
    for block in array.blocks():
        values = block.reshape(-1)
        if values.dtype.kind == "f" and not is_whole(values):
            odd = next(place for place in range(len(values)) if not is_whole(values[place : place + 1]))
            raise SourceError(
                f"{array.called} holds {values[odd]:g} at {start + odd}, which is no class; expected "
                "integers or text: a number to be predicted, or a probability, has to become a class first"
            )
        yield from as_texts(values.astype(np.int64) if values.dtype.kind == "b" else values, whole=True)
        start += len(values)


def _one_hot(array: StoredArray) -> Iterator[str]:
    """Give the column of the single 1 in each row."""
    start, width = 0, array.shape[1]
    for block in array.blocks():
        is_one = block == 1
        good = (is_one.sum(axis=1) == 1) & ((block == 0).sum(axis=1) == width - 1)
        if not good.all():
            odd = int(np.argmin(good))
            shown = ", ".join(map(str, block[odd, :10].tolist())) + (", …" if width > 10 else "")
            raise SourceError(
                f"{array.called} has the shape {array.shape} and is not one-hot, row {start + odd} being "
                f"[{shown}]; expected one class per image: a single 1 in each row and else 0, or integers or "
                "text (N,)"
            )
        yield from map(str, is_one.argmax(axis=1).tolist())
        start += len(block)


def _named(numbers: Iterator[str], classes: Sequence[str], called: str) -> Iterator[str]:
    for position, number in enumerate(numbers):
        if number and not 0 <= int(number) < len(classes):
            raise SourceError(
                f"{called} holds {number} at {position}, and there are {len(classes)} names of classes, from "
                "0 on; add the missing names, or remove them all"
            )
        yield classes[int(number)] if number else ""


def _require(array: StoredArray, kinds: str) -> None:
    if array.dtype.hasobject:
        raise SourceError(
            f"{array.called} holds objects of Python, which can be code and are not read; save it as text, "
            "numpy.array(values, dtype=str), or as numbers"
        )
    if array.dtype.kind not in kinds or not array.dtype.itemsize:
        raise SourceError(f"{array.called} is of the dtype {array.dtype}; expected numbers or text")


def _is_storable(text: str) -> bool:
    try:
        return b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
