"""``featx finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featx.cli.common import (
    Output,
    backbone_options,
    command_line,
    device_options,
    json_option,
    max_skip_option,
    seed_option,
)


class AutoRate(click.ParamType[float | str]):
    """A number above 0, or ``auto``."""

    name = "auto|X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Read the value."""
        if value == "auto":
            return "auto"
        try:
            rate = float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor auto", param, ctx)
        if not 0 < rate < float("inf"):
            self.fail(f"{value} is no number above 0", param, ctx)
        return rate


@click.command("finetune", short_help="The baseline: train the network end to end.")
@click.argument("source")
@click.option(
    "--backbone", default="resnet50", show_default=True, metavar="NAME", help="See `featx backbones`."
)
@backbone_options
@click.option("--layer", metavar="NODE[:POOL]", help="Under the classifier.  [default: the penultimate]")
@click.option(
    "--init",
    type=click.Choice(["head", "random"]),
    default="head",
    show_default=True,
    help="Start the classifier as logistic regression on the frozen embeddings, or at random.",
)
@click.option(
    "--unfreeze",
    default="all",
    show_default=True,
    metavar="all|last:K|NODE",
    help="Train everything, the last K modules with parameters, or all from a node on.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="At most."
)
@click.option(
    "--lr",
    type=AutoRate(),
    default="auto",
    show_default=True,
    metavar="auto|X",
    help="The highest learning rate; auto tries three.",
)
@click.option(
    "--augment",
    type=click.Choice(["none", "light"]),
    default="none",
    show_default=True,
    help="Change training images at random: mirrored, rotated, shifted, zoomed.",
)
@click.option("--train-batchnorm", is_flag=True, help="Use and learn the statistics of batches.")
@click.option(
    "--cv",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    metavar="K",
    help="Folds, of which the first tunes.",
)
@click.option(
    "--test-size",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="F",
    help="Share held out, where the source has no test split.  [default: 0.25]",
)
@seed_option("For everything that is drawn.")
@device_options
@max_skip_option
@click.option("-o", "--output", "run", metavar="RUN", help="The run folder.  [default: SOURCE-finetune]")
@json_option
def command(source: str, run: str | None, as_json: bool, **options: Any) -> None:
    """Train the network end to end on SOURCE, and score it as `featx fit` scores heads.

    The same split and metrics as for heads; learning rate and epochs are chosen on images that are
    not test. The run folder gets results.json, predictions.npz, report.md, report.html and
    network.safetensors.

    \b
    featx finetune photos/ --backbone resnet18
    featx finetune photos/ --unfreeze last:10 --augment light
    featx extract new/ -o new.h5 --weights photos-finetune/network.safetensors
    """  # noqa: D301 - \b is click's own mark
    import featx
    from featx.report.terminal import print_results

    output = Output(as_json)
    folder = run or f"{Path(source).resolve().name}-finetune"
    with output.progress() as on_progress:
        results = featx.finetune(
            source, output=folder, command=command_line(), on_progress=on_progress, **options
        )
    output.json(results.to_json() | {"run": folder})
    print_results(results.to_json(), output.console)
    output.line(f"{folder}: report.html, report.md, results.json, predictions.npz, network.safetensors")
    layer = f" --layer {options['layer']}" if options["layer"] else ""
    output.line(
        f"next: featx extract {source} -o tuned.h5 --backbone {options['backbone']}{layer} "
        f"--weights {folder}/network.safetensors"
    )
