"""``featx fit``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from featx.cli.common import (
    Output,
    command_line,
    cv_option,
    hold_out_option,
    json_option,
    seed_option,
)
from featx.cli.signals import Terminated
from featx.results import CHECKPOINT_FILE, UNFINISHED_FOLDER


def _not_zero(_context: click.Context, _parameter: click.Parameter, value: int) -> int:
    if value == 0:
        raise click.BadParameter("0 threads compute nothing; give a number, or -1 for all processors.")
    return value


class Components(click.ParamType[float | None]):
    """A number of components, a share of the variance, or ``none``."""

    name = "none|N|F"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Read the value."""
        if value is None or value == "none":
            return None
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor none", param, ctx)
        if not (0 < number < 1 or (number >= 1 and number == int(number))):
            self.fail(f"{value} is neither a number of components nor a share below 1", param, ctx)
        return number


def _options(texts: tuple[str, ...]) -> dict[str, Any]:
    """Read NAME=VALUE; the last one of a name counts."""
    from featx.tuningoptions import parse_option

    return dict(parse_option(text) for text in texts)


@click.command("fit", short_help="Tune, fit and compare heads on a store.")
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="NAME",
    help="logreg, linear-svm, rbf-svm, ridge, knn or mlp. Repeat for several.  [default: the first three]",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NODE[:POOL]",
    help="Repeat for several; A+B joins two.  [default: all of the store]",
)
@click.option(
    "--labels",
    metavar="CSV",
    help="Other labels: a CSV with a column name (or path); its columns split and group count too.",
)
@click.option("--label", metavar="COLUMN", help="The column with the label.")
@click.option(
    "--group", metavar="COLUMN", help="The column that says what stays together, such as a patient."
)
@cv_option("Folds.")
@hold_out_option
@click.option("--nested", is_flag=True, help="Nested cross-validation: test every labelled image once.")
@click.option(
    "--outer-folds",
    type=click.IntRange(min=2),
    metavar="K",
    help="Outer folds of --nested.  [default: as --cv]",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="R",
    help="Run it all with R seeds, and say how much depends on them.",
)
@click.option(
    "--shots",
    metavar="S,S,...",
    help="Few-shot curves with so many images per class, such as 1,5,10,20,50.",
)
@click.option(
    "--draws",
    type=click.IntRange(min=2),
    default=10,
    show_default=True,
    metavar="N",
    help="Draws of each point of a curve.",
)
@click.option(
    "--learning-curve/--no-learning-curve",
    default=True,
    show_default=True,
    help="Say what twice the labels would bring the best head.",
)
@click.option("--finetune", is_flag=True, help="Fine-tune the best head's network too, for comparison.")
@click.option(
    "--finetune-option",
    "tuning",
    multiple=True,
    metavar="NAME=VALUE",
    help="As of `featx finetune`: epochs=5, unfreeze=last:10, augment=light, init=random. Repeatable.",
)
@click.option(
    "--source", metavar="DIR", help="Where the images for --finetune lie.  [default: as the store says]"
)
@click.option(
    "--balanced",
    is_flag=True,
    help="Weigh classes by the inverse of their frequency, and choose by balanced accuracy.",
)
@click.option(
    "--l2",
    type=click.Choice(["off", "on", "search"]),
    default="off",
    show_default=True,
    callback=lambda _context, _parameter, value: {"off": False, "on": True}.get(value, (False, True)),
    help="Divide each row by its length first, or let the search try both.",
)
@click.option(
    "--pca",
    multiple=True,
    type=Components(),
    metavar="none|N|F",
    help="Keep N principal components, or a share F of the variance; repeat to try several.",
)
@seed_option("For folds, hold-out, draws and bootstrap.")
@click.option(
    "--jobs",
    default=-1,
    show_default=True,
    metavar="N",
    callback=_not_zero,
    help="Threads; -1 for all processors.",
)
@click.option("-o", "--output", "run", metavar="RUN", help="The run folder.  [default: STORE-run]")
@json_option
def command(
    stores: tuple[str, ...],
    heads: tuple[str, ...],
    run: str | None,
    finetune: bool,
    tuning: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Tune, fit and compare heads on every layer of every STORE, and save the winner.

    Several stores hold the same images, embedded by different networks. The run folder gets
    results.json, predictions.npz, report.md, report.html and model.featx, then curves.json. With
    --finetune the network of the best head is trained end to end on the same images, split and folds
    when all else is done; the results get its row, the run folder finetuned.featx and
    network.safetensors. If it is interrupted, the same command goes on with it.

    \b
    featx fit photos.h5
    featx fit resnet.h5 pixels.h5 -o run --head logreg --head rbf-svm
    featx fit scans.h5 --group patient --nested --repeats 5
    featx fit photos.h5 --shots 1,5,10,20,50
    featx fit photos.h5 --finetune --finetune-option epochs=5
    """  # noqa: D301 - \b is click's own mark
    import featx

    output = Output(as_json)
    folder = run or f"{Path(stores[0]).stem}-run"

    shown = False

    def show(results: featx.Results) -> None:
        nonlocal shown
        from featx.report.terminal import print_results

        shown = True
        print_results(results.to_json(), output.console)

    from featx.report.curves import curve_notes, curve_sentences

    if heads:
        options["heads"] = heads
    options["pca"] = options["pca"] or None
    if tuning and not finetune:
        raise click.UsageError("--finetune-option is of no use without --finetune; add it.")
    try:
        with output.progress() as on_progress:
            results = featx.fit(
                stores,
                output=folder,
                command=command_line(),
                on_progress=on_progress,
                on_results=show,
                finetune=_options(tuning) if finetune else False,
                **options,
            )
    except (featx.FeatxError, KeyboardInterrupt, Terminated):
        if finetune and shown:
            unfinished = (Path(folder) / UNFINISHED_FOLDER / CHECKPOINT_FILE).exists()
            more = "; the same command goes on with fine-tuning" if unfinished else ""
            click.echo(f"{folder} holds the results of the heads{more}", err=True)
        raise
    output.json(results.to_json() | {"run": folder, "curves": results.curves})
    for sentence in curve_sentences(results.curves or {}):
        output.console.print(sentence, markup=False)
    for note in (*results.dataset["notes"], *curve_notes(results.curves or {})):
        output.line(f"note: {note}")
    output.line(f"{folder}: report.html, report.md, results.json, predictions.npz, model.featx")
    if any(name in (results.curves or {}) for name in ("learning", "few_shot")):
        output.line(f"{folder}: curves.json, learning and few-shot curves")
    if finetune:
        output.line(f"{folder}: finetuned.featx and network.safetensors, the fine-tuned network")
    output.line(f"next: {shlex.join(['featx', 'predict', folder, 'NEW_IMAGES'])}")
