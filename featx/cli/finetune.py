"""``featx finetune``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from featx.cli.common import (
    Command,
    Output,
    backbone_options,
    command_line,
    compile_option,
    cv_option,
    device_options,
    hold_out_option,
    json_option,
    max_skip_option,
    seed_option,
)
from featx.cli.signals import Terminated
from featx.results import CHECKPOINT_FILE


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


class Widths(click.ParamType[tuple[int, ...]]):
    """Whole numbers of at least one, with commas between."""

    name = "N,N,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read the value."""
        if isinstance(value, tuple):
            return value
        try:
            widths = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers, such as 512,512", param, ctx)
        if min(widths) < 1:
            self.fail(f"{value} holds a width of less than 1", param, ctx)
        return widths


def _share(name: str, text: str, default: float = 0.0) -> Callable[[Command], Command]:
    """Give an option for a share."""
    kind = click.FloatRange(0, 1, max_open=default == 0, min_open=default != 0)
    return click.option(name, type=kind, default=default, show_default=True, metavar="F", help=text)


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
    "--hidden",
    type=Widths(),
    default=(),
    metavar="N,N,…",
    help="Hidden layers of the classifier, as 512,512.",
)
@_share("--dropout", "Left out in training before the classifier's layers.")
@click.option(
    "--head-epochs",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="First train the classifier alone.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="At most."
)
@click.option(
    "--patience",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    metavar="N",
    help="Give a rate up after so many epochs without a better one; 0 for never.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["adamw", "sgd"]),
    default="adamw",
    show_default=True,
    help="How the weights are changed.",
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
    type=click.Choice(["none", "crop", "light", "strong"]),
    default="none",
    show_default=True,
    help="Change training images at random; augmented.png in the run folder shows how.",
)
@_share("--layer-decay", "Factor of the rate from block to earlier block.", default=1.0)
@_share("--label-smoothing", "Spread over all classes.")
@click.option("--balanced", is_flag=True, help="Weigh classes by the inverse of their frequency.")
@click.option("--train-batchnorm", is_flag=True, help="Use and learn the statistics of batches.")
@cv_option("Folds, of which the first tunes.")
@hold_out_option
@seed_option("For everything that is drawn.")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="R",
    help="Final trainings, each with the next seed.",
)
@compile_option
@device_options
@max_skip_option
@click.option("-o", "--output", "run", metavar="RUN", help="The run folder.  [default: SOURCE-finetune]")
@click.option("--resume", is_flag=True, help="Go on with a training that was interrupted.")
@json_option
def command(source: str, run: str | None, as_json: bool, **options: Any) -> None:
    """Train the network end to end on SOURCE, and score it as `featx fit` scores heads.

    The same split and metrics as for heads; learning rate and epochs are chosen on images that are
    not test. The run folder gets results.json, predictions.npz, curves.json, report.md, report.html,
    network.safetensors for `extract --weights`, and model.featx for `predict`. A training that was
    interrupted goes on with --resume.

    \b
    featx finetune photos/ --backbone resnet18
    featx finetune photos/ --unfreeze last:10 --augment light
    featx extract new/ -o new.h5 --weights photos-finetune/network.safetensors
    """  # noqa: D301 - \b is click's own mark
    import featx
    from featx.report.terminal import print_results

    output = Output(as_json)
    folder = run or f"{Path(source).resolve().name}-finetune"
    try:
        with output.progress() as on_progress:
            results = featx.finetune(
                source, output=folder, command=command_line(), on_progress=on_progress, **options
            )
    except (KeyboardInterrupt, Terminated):
        if (Path(folder) / CHECKPOINT_FILE).exists():
            click.echo(f"{folder} holds what was learned; go on with the same command and --resume", err=True)
        raise
    output.json(results.to_json() | {"run": folder})
    print_results(results.to_json(), output.console)
    output.line(f"{folder}: report.html, report.md, results.json, network.safetensors, model.featx")
    layer = f" --layer {options['layer']}" if options["layer"] else ""
    output.line(
        f"next: featx extract {source} -o tuned.h5 --backbone {options['backbone']}{layer} "
        f"--weights {folder}/network.safetensors"
    )
