"""Pretrain ``featx-tiny`` on rendered images: ``python -m featx.demo.pretrain --help``.

The defaults are those that made the weights in the package. The schedule is a number of steps, not a time,
so that the same command makes the same network on a faster or a slower machine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import torch

from featx.backbones.providers import tiny
from featx.demo.distortion import distort
from featx.demo.exporting import export
from featx.demo.rendering import render_pool, source_classes
from featx.demo.training import Recipe, accuracy, train
from featx.errors import FeatxError

__all__ = ["main", "pretrain"]

STEPS = 8_000
BATCH_SIZE = 128
PER_CLASS = 32
SEED = 0

_HELD_OUT = 1_000_000  # added to the seed of the images that measure the source accuracy


def pretrain(
    out: Path,
    *,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    per_class: int = PER_CLASS,
    limit: int | None = None,
    seed: int = SEED,
    checkpoints: Path | None = None,
    every: int = 500,
    stop_at: int | None = None,
    bf16: bool = True,
    progress: Callable[[str], None] | None = None,
) -> float:
    """Render the source task, train on it and write the weights.

    Parameters
    ----------
    out : Path
        The safetensors file; replaced whole.
    steps, batch_size, per_class, seed, bf16
        As in :class:`featx.demo.training.Recipe`.
    limit : int, optional
        Take only so many classes, evenly from all kinds.
    checkpoints : Path, optional
        Folder of the checkpoint; a run that finds one there goes on from it.
    every : int, default=500
        Steps between two checkpoints.
    stop_at : int, optional
        Stop before this step and write what there is; a later run goes on from the checkpoint.
    progress : callable, optional
        Takes one line of text.

    Returns
    -------
    float
        Accuracy on the source task, on rendered images that were not in the pool.

    Raises
    ------
    WeightsError
        If the checkpoint is of another recipe, or the weights do not survive float16.
    """
    say = progress if progress is not None else _silent
    classes = source_classes()
    if limit is not None and limit < len(classes):
        classes = tuple(classes[number * len(classes) // limit] for number in range(limit))
    say(f"rendering {len(classes)} classes, {per_class} images each")
    images, labels = (torch.from_numpy(array) for array in render_pool(classes, per_class, seed=seed))
    recipe = Recipe(
        steps=steps, batch_size=batch_size, seed=seed, per_class=per_class, classes=len(classes), bf16=bf16
    )
    checkpoint = None if checkpoints is None else checkpoints / "featx_tiny.checkpoint.pt"
    network = train(
        images, labels, recipe, checkpoint=checkpoint, every=every, stop_at=stop_at, progress=progress
    )
    fresh, truth = (torch.from_numpy(array) for array in render_pool(classes, 2, seed=seed + _HELD_OUT))
    score = accuracy(network, fresh, truth, seed=seed + _HELD_OUT)
    sample = torch.arange(0, len(fresh), max(1, len(fresh) // 256))
    difference = export(
        network,
        out,
        categories=[each.name for each in classes],
        seed=seed,
        description=(
            f"featx-tiny: a small residual network trained for {min(stop_at or steps, steps)} of "
            f"{steps} steps of {batch_size} rendered glyphs, pen strokes, outlines, textures and "
            f"fractals in {len(classes)} classes, without digits; source accuracy {score:.4f} "
            "under distortion."
        ),
        check=distort(fresh[sample], torch.Generator().manual_seed(seed)),
    )
    say(f"source accuracy {score:.4f}  rounding to float16 changes embeddings by at most {difference:.2e}")
    say(f"wrote {out} ({out.stat().st_size} bytes)")
    return score


def _silent(line: str) -> None:
    del line


@click.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(tiny.__file__).with_name("featx_tiny.safetensors"),
    show_default="the file in the package",
    help="The weights file to write.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=STEPS, show_default=True, help="Length of the schedule."
)
@click.option(
    "--batch-size", type=click.IntRange(min=2), default=BATCH_SIZE, show_default=True, help="Images a step."
)
@click.option(
    "--per-class",
    type=click.IntRange(min=1),
    default=PER_CLASS,
    show_default=True,
    help="Images rendered of a class.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=SEED, show_default=True, help="Seed of everything random."
)
@click.option(
    "--checkpoints",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the checkpoint; run again with it to go on.",
)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Threads of torch.")
@click.option("--bf16/--fp32", default=True, show_default=True, help="Arithmetic of the forward pass.")
def main(
    out: Path,
    steps: int,
    batch_size: int,
    per_class: int,
    seed: int,
    checkpoints: Path | None,
    threads: int,
    bf16: bool,
) -> None:
    """Pretrain featx-tiny on images that are rendered here, and write its weights."""
    torch.set_num_threads(threads)
    try:
        pretrain(
            out,
            steps=steps,
            batch_size=batch_size,
            per_class=per_class,
            seed=seed,
            checkpoints=checkpoints,
            bf16=bf16,
            progress=lambda line: click.echo(line, err=True),
        )
    except FeatxError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
