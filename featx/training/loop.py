"""The training loop: the same numbers for the same seed, wherever it was interrupted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featx.errors import FeatxError, TrainingError
from featx.records import Pixels
from featx.training.checkpoint import Checkpoint, flatten
from featx.training.classifier import Classifier
from featx.training.feeds import Feed, ImageFeed, Rows
from featx.training.recipe import Recipe, build_optimizer, class_weights, rate_factor
from featx.training.stopping import hold_signals

__all__ = ["Curve", "OnEpoch", "OnStep", "embed_rows", "predict_proba", "train"]

Curve = list[dict[str, Any]]
"""One entry for each epoch: ``epoch``, ``loss`` (nats) and ``accuracy`` of training, ``seconds``, and what
:data:`OnEpoch` added."""

OnEpoch = Callable[[dict[str, Any]], bool]
"""Called with the last entry of the curve, to which it may add plain types, the model being in evaluation
mode; true ends the training. It may not draw random numbers from torch."""

OnStep = Callable[[int, Curve], None]
"""Called with the number of images seen since the start, and the curve so far."""


@dataclass
class _Position:
    """Where a training stands: whole epochs, steps of the next one, and what these have summed up."""

    epoch: int
    batch: int
    loss: float
    right: int
    seconds: float
    curve: Curve


def train(
    model: Classifier,
    feed: Feed,
    rows: Rows,
    codes: NDArray[np.intp],
    recipe: Recipe,
    *,
    stop_after: int | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    checkpoint: Checkpoint | None = None,
    run: str = "training",
    extra: Mapping[str, Tensor] | None = None,
) -> Curve:
    """Train what is not frozen, with cross-entropy.

    Order, augmentation and dropout are drawn from seed, epoch and batch, so that no generator's state
    has to be kept. With a checkpoint SIGINT, SIGTERM and SIGHUP wait for the end of the step, and what
    was learned until then is saved before they act.

    Parameters
    ----------
    model : Classifier
        Changed in place; in evaluation mode afterwards.
    feed : Feed
    rows : ndarray of int, (n,)
        Which images are learned from.
    codes : ndarray of int, (n,)
        Index of the class of each of them.
    recipe : Recipe
    stop_after : int, optional
        Epochs to do of the schedule's; all by default.
    on_epoch, on_step : callable, optional
    checkpoint : Checkpoint, optional
        Where each epoch is saved; what it holds of ``run`` is gone on with.
    run : str
        Name of this training in the checkpoint.
    extra : mapping of str to Tensor, optional
        Saved with each epoch, as ``extra/…``; may change meanwhile.

    Returns
    -------
    list of dict
        The curve.

    Raises
    ------
    TrainingError
        If the loss becomes NaN or infinite; the text says when. The model has the weights of the last
        good epoch then.
    FeatxError
        If a batch does not fit into memory.
    """
    device = model.network.device
    n_batches = math.ceil(len(rows) / recipe.batch_size)
    steps, last = recipe.epochs * n_batches, recipe.epochs if stop_after is None else stop_after
    optimizer = build_optimizer(model, recipe)
    loss_of = nn.CrossEntropyLoss(
        weight=torch.tensor(class_weights(codes, len(model.linears[-1].bias)), device=device)
        if recipe.balanced
        else None,
        label_smoothing=recipe.label_smoothing,
    )
    targets = torch.from_numpy(codes).to(device)
    at = _restore(model, optimizer, checkpoint.running(run) if checkpoint else None)
    good = _learned(model, copied=True)
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        _memory_errors(model, recipe.batch_size),
        hold_signals() if checkpoint else _holds_nothing() as held,
    ):
        while at.epoch < last and not (at.curve and at.curve[-1].get("ended")):
            model.train()
            began = perf_counter() - at.seconds
            total, right = torch.tensor(at.loss, device=device), torch.tensor(at.right, device=device)
            # Parts of nearly the same size: BatchNorm cannot learn from a last batch of one.
            order = np.random.default_rng([recipe.seed, at.epoch]).permutation(len(rows))
            parts = np.array_split(order, n_batches)
            seen = at.epoch * len(rows) + sum(map(len, parts[: at.batch]))
            for chosen in parts[at.batch :]:
                torch.manual_seed(_derived(recipe.seed, at.epoch, at.batch))
                factor = rate_factor(at.epoch * n_batches + at.batch, steps)
                for group in optimizer.param_groups:
                    group["lr"] = group["highest"] * factor
                scores = feed.scores(model, rows[chosen], at.epoch)
                wanted = targets[torch.from_numpy(chosen).to(device)]
                loss = loss_of(scores, wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(chosen)
                right += (scores.detach().argmax(dim=1) == wanted).sum()
                at.batch += 1
                seen += len(chosen)
                if on_step is not None:
                    on_step(seen, at.curve)
                if checkpoint and held and held.waiting is not None:
                    at.loss, at.right, at.seconds = float(total), int(right), perf_counter() - began
                    if math.isfinite(at.loss):
                        checkpoint.save(run, vars(at), _tensors(model, optimizer, extra))
                    held.deliver()
            model.eval()
            if not math.isfinite(float(total)):
                model.load_state_dict(good, strict=False)
                raise TrainingError(
                    f"The loss became {float(total)} in epoch {at.epoch + 1} at a learning rate of "
                    f"{recipe.lr:g}; choose a smaller --lr."
                )
            entry = {
                "epoch": at.epoch + 1,
                "loss": float(total) / len(rows),
                "accuracy": int(right) / len(rows),
            }
            at = _Position(at.epoch + 1, 0, 0.0, 0, 0.0, [*at.curve, entry])
            entry["seconds"] = perf_counter() - began
            if on_epoch is not None and on_epoch(entry):
                entry["ended"] = True
            good = _learned(model, copied=True)
            if checkpoint:
                checkpoint.save(run, vars(at), _tensors(model, optimizer, extra))
                if held and held.waiting is not None:
                    held.deliver()
    return at.curve


def embed_rows(model: Classifier, pixels: Pixels, rows: Rows, batch_size: int) -> NDArray[np.float32]:
    """Give the pooled rows of images, as the classifier sees them, (len(rows), dim)."""
    feed = ImageFeed(pixels)
    return _forward(model, lambda batch: model.network(feed.images(model, batch, None)), rows, batch_size)


def predict_proba(model: Classifier, feed: Feed, rows: Rows, batch_size: int) -> NDArray[np.float64]:
    """Predict the probability of each class, of images as they are.

    Parameters
    ----------
    model : Classifier
        In evaluation mode.
    feed : Feed
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
    scores = _forward(model, lambda batch: feed.scores(model, batch, None), rows, batch_size).astype(
        np.float64
    )
    if not np.isfinite(scores).all():
        raise TrainingError("The trained network gives NaN or infinite scores; choose a smaller --lr.")
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float64)


def _forward(
    model: Classifier, compute: Callable[[Rows], Tensor], rows: Rows, batch_size: int
) -> NDArray[np.float32]:
    with torch.inference_mode(), _memory_errors(model, batch_size):
        parts = [
            compute(rows[start : start + batch_size]).float().cpu().numpy()
            for start in range(0, len(rows), batch_size)
        ]
    if not parts:
        return np.empty((0, len(model.linears[-1].bias)), np.float32)
    return np.concatenate(parts)


def _restore(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    saved: tuple[dict[str, Any], dict[str, Tensor]] | None,
) -> _Position:
    if saved is None:
        return _Position(0, 0, 0.0, 0, 0.0, [])
    state, tensors = saved
    learned = {
        name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")
    }
    model.load_state_dict(learned, strict=False)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            if tensor.ndim:
                # Laid out in memory as the parameter is (channels-last): fused steps take them side by side.
                tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
            moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return _Position(**state)


def _tensors(
    model: Classifier, optimizer: torch.optim.Optimizer, extra: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    learned, moments = _learned(model), optimizer.state_dict()["state"]
    return flatten("model", learned) | flatten("optimizer", moments) | flatten("extra", extra or {})


def _learned(model: Classifier, copied: bool = False) -> dict[str, Tensor]:
    """Give what training changes: parameters, and the statistics of BatchNorm that learns them."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}
    return {name: tensor.clone() for name, tensor in state.items()} if copied else state


def _derived(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def _holds_nothing() -> Iterator[None]:
    yield None


@contextmanager
def _memory_errors(model: Classifier, batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise FeatxError(
            f"A batch of {batch_size} images does not fit into the memory of {model.network.device}; "
            "choose a smaller --batch-size or --image-size."
        ) from error
