"""How a network is trained end to end: options by name, checked before any work."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from featx.errors import FeatxError, UnknownNameError
from featx.records import Precision

__all__ = ["TuningOptions", "parse_option"]

DEFAULT_EPOCHS = 10

DEFAULT_PATIENCE = 4
"""Longer than the rise of the rate and the first steps at its height, which may cost accuracy first."""

Init = Literal["head", "random"]
Optimizer = Literal["adamw", "sgd"]
Augment = Literal["none", "crop", "light", "strong"]
Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningOptions:
    """How a network is trained; each as for :func:`featx.finetune`.

    Raises
    ------
    FeatxError
        If nothing can be trained with a value.

    Examples
    --------
    >>> TuningOptions(epochs=0)
    Traceback (most recent call last):
    featx.errors.FeatxError: Got 0 epochs, expected at least 1.
    """

    init: Init = "head"
    unfreeze: str = "all"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    head_epochs: int = 0
    epochs: int = DEFAULT_EPOCHS
    patience: int = DEFAULT_PATIENCE
    lr: float | Literal["auto"] = "auto"
    optimizer: Optimizer = "adamw"
    layer_decay: float = 1.0
    label_smoothing: float = 0.0
    balanced: bool = False
    augment: Augment = "none"
    train_batchnorm: bool = False
    repeats: int = 1
    batch_size: int | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    compile: Compile = "auto"
    device: str = "auto"
    workers: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        for what, value, known in (
            ("start of the classifier", self.init, get_args(Init)),
            ("optimizer", self.optimizer, get_args(Optimizer)),
            ("augmentation", self.augment, get_args(Augment)),
            ("choice of compiling", self.compile, get_args(Compile)),
        ):
            if value not in known:
                raise UnknownNameError(what, str(value), known)
        if self.lr != "auto" and not (isinstance(self.lr, float | int) and 0 < self.lr < float("inf")):
            raise FeatxError(f"Got the learning rate {self.lr!r}, expected a number above 0, or auto.")
        for name, count in (("a batch size", self.batch_size), ("a number of workers", self.workers)):
            if count != "auto" and not (isinstance(count, int) and count >= 1):
                raise FeatxError(f"Got {name} of {count!r}, expected at least 1, or auto.")
        least = {"epochs": (self.epochs, 1), "repeats": (self.repeats, 1)}
        least |= {"patience": (self.patience, 0), "head_epochs": (self.head_epochs, 0)}
        least |= {"neurons in a hidden layer": (min(self.hidden, default=1), 1)}
        for name, (number, lowest) in least.items():
            if number < lowest:
                raise FeatxError(f"Got {number} {name}, expected at least {lowest}.")
        for name, share in (("dropout", self.dropout), ("label_smoothing", self.label_smoothing)):
            if not 0 <= share < 1:
                raise FeatxError(f"Got {name} {share}, expected a number from 0 to below 1.")
        if not 0 < self.layer_decay <= 1:
            raise FeatxError(f"Got layer_decay {self.layer_decay}, expected a number above 0, up to 1.")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> TuningOptions:
        """Take options by name.

        Raises
        ------
        UnknownNameError
            If there is no such option.
        FeatxError
            If a value is of another type, or cannot be trained with.
        """
        known = {field.name: field.default for field in dataclasses.fields(cls)}
        for name, value in options.items():
            if name not in known:
                raise UnknownNameError("option of fine-tuning", str(name), known)
            if not _fits(value, known[name]):
                raise FeatxError(_wrong(name, value, known[name]))
        values = dict(options)
        if "hidden" in values:
            values["hidden"] = tuple(values["hidden"])
        return cls(**values)


def _fits(value: object, default: object) -> bool:
    """Whether a value has the type of an option's default; ``auto`` stands for a number."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(isinstance(width, int) for width in value)
    if isinstance(default, float):
        return isinstance(value, float | int)
    return isinstance(value, type(default)) or (default == "auto" and isinstance(value, float | int))


def _wrong(name: str, value: object, default: object) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", tuple: "widths such as 512,512"}
    expected = kinds.get(type(default), "a name")
    return f"Got {value!r} for the option {name} of fine-tuning, expected {expected}."


def parse_option(text: str) -> tuple[str, Any]:
    """Read one option from ``NAME=VALUE``.

    Raises
    ------
    UnknownNameError
        If there is no such option.
    FeatxError
        If that is no value of it.

    Examples
    --------
    >>> parse_option("epochs=5"), parse_option("head-epochs=2"), parse_option("unfreeze=last:10")
    (('epochs', 5), ('head_epochs', 2), ('unfreeze', 'last:10'))
    """
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals:
        raise FeatxError(f"Got {text!r}, expected NAME=VALUE, such as epochs=5.")
    known = {field.name: field.default for field in dataclasses.fields(TuningOptions)}
    if name not in known:
        raise UnknownNameError("option of fine-tuning", name, known)
    default, found = known[name], _read(value.strip(), known[name])
    if not _fits(found, default):
        raise FeatxError(_wrong(name, value, default))
    return name, found


def _read(value: str, default: object) -> object:
    """Read a value as the type of the default; the text itself where that cannot be."""
    if isinstance(default, str) and default != "auto":
        return value
    try:
        found = json.loads(f"[{value}]" if isinstance(default, tuple) else value)
    except ValueError:
        return value
    return found if isinstance(found, bool | int | float | list) else value
