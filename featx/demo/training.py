"""Training of the embedded backbone on the source task: seeded, and resumable from a checkpoint.

Everything random in a step comes from a generator seeded by (seed, step), and the learning rate is a
function of the step, so that a run that was killed and resumed takes the same steps as one that was not.
"""

from __future__ import annotations

import dataclasses
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from featx.backbones.providers.tiny import TinyNet, tiny_net
from featx.demo.distortion import distort
from featx.errors import WeightsError
from featx.files import publish

__all__ = ["Recipe", "accuracy", "learning_rate", "train"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What decides the weights.

    Parameters
    ----------
    steps : int
        Optimiser steps; the length of the schedule.
    batch_size : int
        Images a step.
    seed : int
        Seed of the weights, the order and the distortions.
    per_class : int
        Rendered images of each class in the pool.
    classes : int
        Number of classes.
    peak : float
        Highest learning rate of AdamW.
    weight_decay : float
        Decay of convolutions and of the classifier's weight; BatchNorm and biases have none.
    label_smoothing : float
        Share of the target that is spread over all classes.
    warmup : float
        Share of the steps during which the learning rate rises.
    stretch : float
        Length of the cosine as a multiple of the steps; it is left before its end for the cooldown.
    cooldown : float
        Share of the steps, the last ones, during which the learning rate falls in a line to zero.
    colours_from : float
        Share of the steps during which random colours replace white on black little by little.
    colourful : float
        Share of the images in random colours after that.
    bf16 : bool
        Whether the forward pass runs in bfloat16.
    """

    steps: int
    batch_size: int
    seed: int
    per_class: int
    classes: int
    peak: float = 3e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    warmup: float = 0.175
    stretch: float = 1.75
    cooldown: float = 0.125
    colours_from: float = 0.4375
    colourful: float = 0.8
    bf16: bool = True


def learning_rate(recipe: Recipe, step: int) -> float:
    """Give the learning rate of a step: a linear rise, the first part of a long cosine, a line to zero.

    Parameters
    ----------
    recipe : Recipe
        Gives the peak, the number of steps and the shares.
    step : int
        From 0 to ``recipe.steps - 1``.

    Returns
    -------
    float
        The learning rate.

    Notes
    -----
    Source of the cosine: Loshchilov and Hutter, "SGDR", 2017 (https://arxiv.org/abs/1608.03983); of the
    cooldown: Hägele et al., 2024 (https://arxiv.org/abs/2405.18392). A cooldown can begin at any
    checkpoint, so that a run can be given its end when it is known how many steps the machine can do.

    Examples
    --------
    >>> recipe = Recipe(steps=100, batch_size=8, seed=0, per_class=1, classes=2, peak=1.0)
    >>> [round(learning_rate(recipe, step), 2) for step in (0, 17, 86, 99)]
    [0.06, 1.0, 0.6, 0.05]
    """
    rise = max(1, round(recipe.warmup * recipe.steps))
    horizon = round(recipe.stretch * recipe.steps)
    fall = max(1, round(recipe.cooldown * recipe.steps))

    def before_cooldown(at: int) -> float:
        if at < rise:
            return recipe.peak * (at + 1) / rise
        return recipe.peak * (1 + math.cos(math.pi * (at - rise + 1) / max(1, horizon - rise + 1))) / 2

    left = recipe.steps - step
    return before_cooldown(min(step, recipe.steps - fall)) * min(1.0, left / fall)


def train(
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    every: int = 500,
    stop_at: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> TinyNet:
    """Train the network, going on from the checkpoint where there is one.

    Parameters
    ----------
    images : Tensor of uint8, shape (n, 64, 64)
        The rendered pool.
    labels : Tensor of int64, shape (n,)
        Classes of the images, from 0 to ``recipe.classes - 1``.
    recipe : Recipe
        What decides the weights.
    checkpoint : Path, optional
        File that is written every ``every`` steps and at the end, and read at the start.
    every : int, default=500
        Steps between two checkpoints; every tenth of it a line is reported.
    stop_at : int, optional
        Stop before this step, with the schedule of the whole run.
    progress : callable, optional
        Takes one line of text.

    Returns
    -------
    TinyNet
        The network after the last step, in evaluation mode.

    Raises
    ------
    WeightsError
        If the checkpoint is of another recipe.
    """
    network, optimizer = _prepare(recipe)
    first = 0 if checkpoint is None else _restore(checkpoint, recipe, network, optimizer)
    last = recipe.steps if stop_at is None else min(stop_at, recipe.steps)
    lines = max(1, every // 10)
    started, total, correct = time.perf_counter(), 0.0, 0.0
    network.train()
    for step in range(first, last):
        loss, hits = _step(network, optimizer, images, labels, recipe, step)
        total, correct = total + loss, correct + hits
        done = step + 1
        if progress is not None and (done % lines == 0 or done == last):
            count = (step - first) % lines + 1
            seconds = time.perf_counter() - started
            rate = (done - first) * recipe.batch_size / seconds
            left = (last - done) * recipe.batch_size / rate
            progress(
                f"step {done}/{recipe.steps}  loss {total / count:.3f}  accuracy {correct / count:.3f}  "
                f"{rate:.0f} images/s  {seconds:.0f} s, {left:.0f} s left"
            )
            total, correct = 0.0, 0.0
        if checkpoint is not None and (done % every == 0 or done == last):
            _save(checkpoint, recipe, network, optimizer, done)
    return network.eval()


def accuracy(
    network: nn.Module, images: Tensor, labels: Tensor, *, seed: int, batch_size: int = 256
) -> float:
    """Measure the share of distorted images that get the right class.

    Parameters
    ----------
    network : Module
        In evaluation mode.
    images : Tensor of uint8, shape (n, 64, 64)
        Rendered images, distorted once each.
    labels : Tensor of int64, shape (n,)
        Their classes.
    seed : int
        Seed of the distortions.
    batch_size : int, default=256
        Images at a time.

    Returns
    -------
    float
        Between 0 and 1.
    """
    generator = torch.Generator().manual_seed(seed)
    # Groups of a batch share a stroke width, so that classes must not lie together.
    order = torch.randperm(len(images), generator=generator)
    hits = 0
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            hits += int((network(distort(images[rows], generator)).argmax(1) == labels[rows]).sum())
    return hits / len(images)


def _prepare(recipe: Recipe) -> tuple[TinyNet, torch.optim.AdamW]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = tiny_net(recipe.classes).to(memory_format=torch.channels_last)
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return network, torch.optim.AdamW(groups, lr=recipe.peak)


def _step(
    network: TinyNet,
    optimizer: torch.optim.AdamW,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    step: int,
) -> tuple[float, float]:
    """Take one step; give the loss and the share of right answers."""
    generator = Generator().manual_seed(recipe.seed * 1_000_000_007 + step)
    rows = torch.randint(len(images), (recipe.batch_size,), generator=generator)
    colourful = recipe.colourful * min(1.0, step / max(1.0, recipe.colours_from * recipe.steps))
    inputs, targets = distort(images[rows], generator, colourful=colourful), labels[rows]
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, step)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
        scores = network(inputs)
    loss = nn.functional.cross_entropy(scores.float(), targets, label_smoothing=recipe.label_smoothing)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item(), (scores.argmax(1) == targets).float().mean().item()


def _save(path: Path, recipe: Recipe, network: TinyNet, optimizer: torch.optim.AdamW, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {
        "recipe": dataclasses.asdict(recipe),
        "step": step,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with publish(path) as file:
        file.write(buffer.getbuffer())


def _restore(path: Path, recipe: Recipe, network: TinyNet, optimizer: torch.optim.AdamW) -> int:
    """Load a checkpoint of the same recipe; give the number of steps it has taken."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    wanted = dataclasses.asdict(recipe)
    different = [
        f"{key} {state['recipe'].get(key)} not {value}"
        for key, value in wanted.items()
        if state["recipe"].get(key) != value
    ]
    if different:
        raise WeightsError(
            f"The checkpoint {path} is of another recipe ({', '.join(different)}): "
            "give its options, or another folder."
        )
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
