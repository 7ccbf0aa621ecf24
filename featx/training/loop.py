"""The training loop: AdamW, a rise and half a cosine, the same numbers for the same seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from featx.errors import FeatxError, TrainingError
from featx.records import Pixels
from featx.training.augmentation import augmenter
from featx.training.classifier import Classifier

__all__ = ["Recipe", "embed_rows", "predict_proba", "rate_factor", "train"]

WEIGHT_DECAY = 0.01
"""AdamW's own default; for matrices and kernels only, not for biases and normalisation."""

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the weights, besides the images and where training starts.

    Parameters
    ----------
    epochs : int
        Length of the schedule.
    lr : float
        Highest learning rate.
    batch_size : int
    augment : {"none", "light"}
    seed : int
        Of the order, the augmentation and the network's own dropout.
    """

    epochs: int
    lr: float
    batch_size: int
    augment: str
    seed: int


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


def train(
    model: Classifier,
    pixels: Pixels,
    rows: Rows,
    codes: NDArray[np.intp],
    recipe: Recipe,
    *,
    stop_after: int | None = None,
    on_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train what is not frozen, with cross-entropy.

    Parameters
    ----------
    model : Classifier
        Changed in place; in evaluation mode afterwards.
    pixels : ndarray of uint8, (N, H, W, 3)
    rows : ndarray of int, (n,)
        Which images are learned from.
    codes : ndarray of int, (n,)
        Index of the class of each of them.
    recipe : Recipe
    stop_after : int, optional
        Epochs to do of the schedule's; all by default.
    on_epoch : callable, optional
        Called with the number of epochs done, the model in evaluation mode; it may not draw random
        numbers from torch.

    Raises
    ------
    TrainingError
        If the loss becomes NaN or infinite; the text says when.
    FeatxError
        If a batch does not fit into memory.
    """
    augment = augmenter(recipe.augment, model.network.preprocess)
    n_batches = math.ceil(len(rows) / recipe.batch_size)
    steps = recipe.epochs * n_batches
    optimizer = _optimizer(model, recipe.lr)
    schedule = LambdaLR(optimizer, lambda step: rate_factor(step, steps))
    targets = torch.from_numpy(codes).to(model.network.device)
    with _seeded(recipe.seed, model.network.device), _memory_errors(model, recipe.batch_size):
        for epoch in range(recipe.epochs if stop_after is None else stop_after):
            model.train()
            total = torch.zeros((), device=model.network.device)
            # Parts of nearly the same size: BatchNorm cannot learn from a last batch of one.
            order = np.random.default_rng([recipe.seed, epoch]).permutation(len(rows))
            for chosen in np.array_split(order, n_batches):
                images = augment(_to_tensor(pixels, rows[chosen]))
                loss = nn.functional.cross_entropy(model(images), targets[torch.from_numpy(chosen)])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += loss.detach()
            model.eval()
            if not math.isfinite(float(total)):
                raise TrainingError(
                    f"The loss became {float(total)} in epoch {epoch + 1} at a learning rate of "
                    f"{recipe.lr:g}; choose a smaller --lr."
                )
            if on_epoch is not None:
                on_epoch(epoch + 1)


def embed_rows(model: Classifier, pixels: Pixels, rows: Rows, batch_size: int) -> NDArray[np.float32]:
    """Give the pooled rows of images, as the classifier sees them, (len(rows), dim)."""
    return _forward(model, model.network, pixels, rows, batch_size)


def predict_proba(model: Classifier, pixels: Pixels, rows: Rows, batch_size: int) -> NDArray[np.float64]:
    """Predict the probability of each class.

    Parameters
    ----------
    model : Classifier
        In evaluation mode.
    pixels : ndarray of uint8, (N, H, W, 3)
    rows : ndarray of int, (n,)
    batch_size : int

    Returns
    -------
    ndarray of float64, (n, n_classes)

    Raises
    ------
    TrainingError
        If a score is no number.
    """
    scores = _forward(model, model, pixels, rows, batch_size).astype(np.float64)
    if not np.isfinite(scores).all():
        raise TrainingError("The trained network gives NaN or infinite scores; choose a smaller --lr.")
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float64)


def _forward(
    model: Classifier, part: nn.Module, pixels: Pixels, rows: Rows, batch_size: int
) -> NDArray[np.float32]:
    with torch.inference_mode(), _memory_errors(model, batch_size):
        parts = [
            part(_to_tensor(pixels, rows[start : start + batch_size])).cpu().numpy()
            for start in range(0, len(rows), batch_size)
        ]
    return np.concatenate(parts)


def _to_tensor(pixels: Pixels, rows: Rows) -> torch.Tensor:
    # (n, H, W, 3) seen as (n, 3, H, W) is channels-last already: nothing is moved.
    return torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2)


def _optimizer(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators, and leave them as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _memory_errors(model: Classifier, batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise FeatxError(
            f"A batch of {batch_size} images does not fit into the memory of {model.network.device}; "
            "choose a smaller --batch-size or --image-size."
        ) from error
