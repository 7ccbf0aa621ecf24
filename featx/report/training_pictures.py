"""The course of the baseline's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featx.report.pictures import ACCENT, FAINT, INK, Picture, as_svg, new_figure
from featx.report.wording import is_number, number, plain


def draw_training(curves: Mapping[str, Any], salt: str = "") -> Picture | None:
    """Draw loss and accuracy over the epochs of the baseline's training.

    Parameters
    ----------
    curves : mapping
        What ``curves.json`` holds: under ``training``, entries by epoch of each training by its name.
    salt : str, default=""
        Goes into the drawing's ids, so that those of two runs on one page differ.

    Returns
    -------
    Picture or None
        Of the training that does best on the tuning images, on training and on tuning images; None where
        no epoch was ended.
    """
    name, entries = chosen_training(curves)
    if not entries:
        return None
    epochs = [entry["epoch"] for entry in entries]
    with new_figure(4.8, 4.4) as figure:
        upper, lower = figure.subplots(2, sharex=True)
        for axes, what in ((upper, "loss"), (lower, "accuracy")):
            lines = ((what, INK, "o", "training images"), (f"tuning_{what}", ACCENT, "D", "tuning images"))
            for key, colour, marker, label in lines:
                if all(is_number(entry.get(key)) for entry in entries):
                    values = [entry[key] for entry in entries]
                    style = {"color": colour, "label": label, "marker": marker}
                    axes.plot(epochs, values, markersize=3.5, linewidth=1.4, **style)
            axes.set_ylabel(what)
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        upper.legend(frameon=False, fontsize=9, labelcolor=INK)
        lower.locator_params(axis="x", integer=True)
        lower.set_xlabel("epoch")
        caption = (
            f"Training of the baseline ({name}): loss and accuracy on the images that it learned from, "
            "augmented as they were, and on the tuning images, by which the epoch was chosen."
        )
        spoken = "; ".join(f"epoch {entry['epoch']}: {_losses(entry)}" for entry in entries)
        return Picture(as_svg(figure, caption, spoken, salt), caption)


def chosen_training(curves: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    """Choose the training that was best on the tuning images at any epoch; else the last one.

    Examples
    --------
    >>> one = {"a": [{"epoch": 1, "tuning_accuracy": 0.7}], "b": [{"epoch": 1, "tuning_accuracy": 0.8}]}
    >>> chosen_training({"training": one})[0]
    'b'
    """
    found = curves.get("training")
    runs = {
        plain(name): [one for one in entries if isinstance(one, Mapping) and is_number(one.get("epoch"))]
        for name, entries in (found.items() if isinstance(found, Mapping) else ())
        if isinstance(entries, Sequence)
    }
    runs = {name: entries for name, entries in runs.items() if entries}
    if not runs:
        return "", []

    def merit(name: str) -> tuple[float, int]:
        scores = [e["tuning_accuracy"] for e in runs[name] if is_number(e.get("tuning_accuracy"))]
        return (max(scores, default=-1.0), list(runs).index(name))

    name = max(runs, key=merit)
    return name, runs[name]


def _losses(entry: Mapping[str, Any]) -> str:
    return f"loss {number(entry.get('loss'))}, on tuning images {number(entry.get('tuning_loss'))}"
