"""Which images a report shows, and what it says beneath each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.report.runs import Run
from featx.report.tested import Judged, read_tested
from featx.report.thumbnails import Thumbnails, known_places, read_thumbnails
from featx.report.wording import many, number, plain

__all__ = ["Card", "Gallery", "Mistake", "Shelf", "choose_images", "make_gallery", "mistakes"]

MOST_MISTAKES = 12
MOST_SUSPECTS = 12
MOST_PAIRS = 6
MOST_EXAMPLES = 24
"""Of all classes together; at most :data:`ROW` of one."""
ROW = 4


@dataclass(frozen=True, slots=True)
class Card:
    """One image: its name, and what is said of it, line by line."""

    name: str
    lines: tuple[str, ...]

    @property
    def spoken(self) -> str:
        """What the image is, for those who do not see it."""
        return ", ".join((self.name, *self.lines))


@dataclass(frozen=True, slots=True)
class Shelf:
    """Images that stand together; ``note`` says what they have in common."""

    key: str
    title: str
    note: str
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """The images of a report: which, and what could be read of them."""

    shelves: tuple[Shelf, ...]
    thumbnails: Thumbnails


@dataclass(frozen=True, slots=True)
class Mistake:
    """A test image that the best model takes for another class.

    Parameters
    ----------
    name, label, predicted : str
        Printable.
    probability, label_probability : float
        The model's, of the predicted class and of the label.
    """

    name: str
    label: str
    predicted: str
    probability: float
    label_probability: float


def mistakes(results: Mapping[str, Any], predictions: Mapping[str, Any]) -> list[Mistake]:
    """List the test images that the best model gets wrong, the surest mistake first.

    Parameters
    ----------
    results : mapping
        What ``results.json`` holds.
    predictions : mapping
        The arrays of ``predictions.npz``.

    Returns
    -------
    list of Mistake
        Empty where the run does not keep its predictions.

    Examples
    --------
    >>> arrays = {"names": np.array([b"a.jpg", b"b.jpg"]), "truth": np.array([0, 1]),
    ...           "probabilities_0": np.array([[0.1, 0.9], [0.2, 0.8]])}
    >>> results = {"best": 0, "dataset": {"classes": ["ant", "bee"]}}
    >>> [(found.name, found.predicted) for found in mistakes(results, arrays)]
    [('a.jpg', 'bee')]
    """
    tested = read_tested(results, predictions)
    if tested is None:
        return []
    predicted = tested.predicted
    return [
        Mistake(
            name=tested.names[at],
            label=tested.classes[tested.truth[at]],
            predicted=tested.classes[predicted[at]],
            probability=float(tested.probabilities[at].max()),
            label_probability=float(tested.probabilities[at, tested.truth[at]]),
        )
        for at in _wrong(tested)
    ]


def make_gallery(run: Run, source: str | None = None) -> Gallery:
    """Choose the images of a run and read them.

    Parameters
    ----------
    run : Run
    source : str, optional
        Where they lie now; by default where the run says that they lay.
    """
    shelves = choose_images(run.results, run.predictions)
    places = known_places(run.results["dataset"].get("source")) if source is None else [source]
    names = list(dict.fromkeys(card.name for shelf in shelves for card in shelf.cards))
    return Gallery(tuple(shelves), read_thumbnails(places, names))


def choose_images(results: Mapping[str, Any], predictions: Mapping[str, Any]) -> list[Shelf]:
    """Choose the images that a report shows, at most about sixty of them.

    Parameters
    ----------
    results, predictions : mapping
        As for :func:`mistakes`.

    Returns
    -------
    list of Shelf
        Without those that would be empty. The examples are taken at even distances from the test images
        of each class, whether the model gets them right or not.
    """
    tested = read_tested(results, predictions)
    shelves = [_suspects(results), _pairs(results, tested)]
    if tested is not None:
        shelves = [_mistakes(tested), *shelves, _examples(tested)]
    return [shelf for shelf in shelves if shelf.cards]


def _card(tested: Judged, at: int) -> Card:
    """Say of a test image what it is, what it was taken for, and how sure the model was."""
    p = tested.probabilities[at]
    true, predicted = tested.classes[tested.truth[at]], tested.classes[int(p.argmax())]
    return Card(tested.names[at], (f"labelled {true}", f"predicted {predicted}, {number(float(p.max()))}"))


def _wrong(tested: Judged) -> NDArray[np.intp]:
    wrong = np.flatnonzero(tested.probabilities.argmax(axis=1) != tested.truth)
    return wrong[np.argsort(-tested.probabilities[wrong].max(axis=1), kind="stable")]


def _mistakes(tested: Judged) -> Shelf:
    wrong = _wrong(tested)
    some = f", the surest {MOST_MISTAKES} of {len(wrong):,}" if len(wrong) > MOST_MISTAKES else ""
    note = f"Test images that the best model gets wrong{some}, with the probability of what it says."
    cards = tuple(_card(tested, at) for at in wrong[:MOST_MISTAKES])
    return Shelf("mistakes", "The most confident mistakes", note, cards)


def _suspects(results: Mapping[str, Any]) -> Shelf:
    images = (results.get("suspects") or {}).get("images") or []
    cards = tuple(
        Card(
            plain(image.get("name")),
            (
                f"{plain(image.get('split'))}, labelled {plain(image.get('label'))}",
                f"predicted {plain(image.get('predicted'))}, {number(image.get('probability'))}",
            ),
        )
        for image in images[:MOST_SUSPECTS]
    )
    some = f" The first {len(cards)} of {len(images)}." if len(images) > len(cards) else ""
    note = f"The most suspect first.{some} A suspicion may as well be the model's own error."
    return Shelf("suspect-images", "Labels that may be wrong", note, cards)


def _pairs(results: Mapping[str, Any], tested: Judged | None) -> Shelf:
    cards = tuple(_cards_of_pairs(results["dataset"].get("audit") or {}, tested))
    shown = len(cards) // 2
    note = f"{many(shown, 'pair')}: each test image before the training image that it looks like."
    return Shelf("lookalikes", "Copies and lookalikes across splits", note, cards)


def _cards_of_pairs(audit: Mapping[str, Any], tested: Judged | None) -> Iterator[Card]:
    place = {name: at for at, name in enumerate(tested.names)} if tested is not None else {}
    shown = 0
    for key, what in (("duplicates", "the same bytes"), ("near_duplicates", "nearly the same")):
        found = audit.get(key)
        examples = found.get("examples") if isinstance(found, Mapping) else None
        for example in examples or ():
            if shown == MOST_PAIRS or not isinstance(example, Sequence) or len(example) < 2:
                break
            shown += 1
            test, training = plain(example[0]), plain(example[1])
            said = _card(tested, place[test]).lines if tested is not None and test in place else ()
            yield Card(test, ("test", *said))
            yield Card(training, ("training", what))


def _examples(tested: Judged) -> Shelf:
    each = max(1, min(ROW, MOST_EXAMPLES // len(tested.classes)))
    cards: list[Card] = []
    for code in range(min(len(tested.classes), MOST_EXAMPLES)):
        of_class = np.flatnonzero(tested.truth == code)
        chosen = np.unique(np.linspace(0, len(of_class) - 1, each).round().astype(int))
        cards += [_card(tested, of_class[at]) for at in chosen if len(of_class)]
    left_out = len(tested.classes) - MOST_EXAMPLES
    some = f" {many(left_out, 'further class', 'further classes')} are not shown." if left_out > 0 else ""
    note = f"Test images, taken at even distances from each class, right or wrong.{some}"
    return Shelf("examples", "Examples of each class", note, tuple(cards))
