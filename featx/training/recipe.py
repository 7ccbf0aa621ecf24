"""What decides the weights, besides the images and where training starts; and what follows from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featx.training.classifier import Classifier

__all__ = [
    "RATES",
    "OptimizerName",
    "Recipe",
    "build_optimizer",
    "class_weights",
    "rate_factor",
    "rates_by_block",
]

OptimizerName = Literal["adamw", "sgd"]

RATES: dict[str, tuple[float, ...]] = {"adamw": (1e-5, 1e-4, 1e-3), "sgd": (1e-4, 1e-3, 1e-2)}
"""Highest learning rates that ``auto`` tries: a decade to either side of what is usual in fine-tuning."""

HEAD_RATE = {"adamw": 1e-3, "sgd": 1e-2}
"""Highest learning rate while the classifier is trained alone."""

WEIGHT_DECAY = {"adamw": 0.01, "sgd": 1e-4}
"""torch's default, and that of torchvision's recipes; for matrices and kernels only, not for biases and
normalisation."""

MOMENTUM = 0.9

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""

_FEWEST_BLOCKS = 4


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a classifier is trained.

    Parameters
    ----------
    epochs : int
        Length of the schedule.
    lr : float
        Highest learning rate.
    batch_size : int
    augment : {"none", "crop", "light", "strong"}
    seed : int
        Of the order, the augmentation and dropout.
    optimizer : {"adamw", "sgd"}, default="adamw"
        ``sgd`` with Nesterov momentum 0.9.
    layer_decay : float, default=1
        Factor of the learning rate from each block of the network to the one before it; the last block
        and the classifier have the rate itself.
    label_smoothing : float, default=0
        Share of the target that is spread over all classes.
    balanced : bool, default=False
        Weigh classes by the inverse of their frequency.
    patience : int, default=0
        Epochs without a better one on the tuning images after which a rate is given up; 0 for never.
    """

    epochs: int
    lr: float
    batch_size: int
    augment: str
    seed: int
    optimizer: OptimizerName = "adamw"
    layer_decay: float = 1.0
    label_smoothing: float = 0.0
    balanced: bool = False
    patience: int = 0


def rate_factor(step: int, steps: int) -> float:
    """Give the share of the highest learning rate: a linear rise, then half a cosine.

    Parameters
    ----------
    step : int
        From 0 to ``steps - 1``.
    steps : int

    Source
    ------
    Loshchilov and Hutter 2017, SGDR (arXiv:1608.03983); the rise: Goyal et al. 2017 (arXiv:1706.02677).

    Examples
    --------
    >>> [round(rate_factor(step, 20), 2) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.01]
    """
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


def build_optimizer(model: Classifier, recipe: Recipe) -> torch.optim.Optimizer:
    """Give the optimizer of what is trained; each group keeps its highest rate as ``highest``."""
    factors = rates_by_block(model.network.unfrozen, recipe.layer_decay)
    owners = {id(p): factors[name] for name in factors for p in model.network.parameters_of(name)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = WEIGHT_DECAY[recipe.optimizer] if parameter.ndim > 1 else 0.0
            groups.setdefault((owners.get(id(parameter), 1.0), decay), []).append(parameter)
    described: list[dict[str, Any]] = [
        {"params": parameters, "lr": recipe.lr * factor, "weight_decay": decay, "highest": recipe.lr * factor}
        for (factor, decay), parameters in groups.items()
    ]
    fused = model.network.device.type in ("cpu", "cuda")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(described, lr=recipe.lr, momentum=MOMENTUM, nesterov=True, fused=fused)
    return torch.optim.AdamW(described, lr=recipe.lr, fused=fused)


def rates_by_block(names: Sequence[str], decay: float) -> dict[str, float]:
    """Give each module's share of the learning rate.

    A block is what the first parts of the modules' names have in common: as few parts as make four
    blocks, such as ``layer1`` to ``layer4``, or ``features.0`` to ``features.18``.

    Parameters
    ----------
    names : sequence of str
        In order of execution.
    decay : float

    Returns
    -------
    dict of str to float

    Source
    ------
    Layer-wise decay of the learning rate: Clark et al. 2020, ELECTRA (arXiv:2003.10555), section A.

    Examples
    --------
    >>> rates_by_block(["stem", "layer1.conv", "layer2.conv", "layer3.a", "layer3.b"], 0.5)
    {'stem': 0.125, 'layer1.conv': 0.25, 'layer2.conv': 0.5, 'layer3.a': 1.0, 'layer3.b': 1.0}
    """
    deepest = max((name.count(".") + 1 for name in names), default=1)
    for depth in range(1, deepest + 1):
        blocks = [".".join(name.split(".")[:depth]) for name in names]
        if len(set(blocks)) >= _FEWEST_BLOCKS:
            break
    last = {block: place for place, block in enumerate(dict.fromkeys(reversed(blocks)))}
    return {name: decay ** last[block] for name, block in zip(names, blocks, strict=True)}


def class_weights(codes: NDArray[np.intp], n_classes: int) -> list[float]:
    """Give n / (k · n_c) for each class, as scikit-learn's ``class_weight="balanced"``.

    Examples
    --------
    >>> class_weights(np.array([0, 0, 0, 1]), 2)
    [0.6666666666666666, 2.0]
    """
    counts = Counter(codes.tolist())
    return [len(codes) / (n_classes * counts[code]) if counts[code] else 0.0 for code in range(n_classes)]
