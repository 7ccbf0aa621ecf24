"""``featx extract``."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

import click

from featx.cli.common import (
    Output,
    backbone_options,
    compile_option,
    device_options,
    fast_decode_option,
    json_option,
    max_skip_option,
    seed_option,
)


@click.command("extract", short_help="Embed every image of a collection once.")
@click.argument("source")
@click.option(
    "-o",
    "--output",
    "store",
    required=True,
    metavar="STORE",
    help="The HDF5 file to write; a directory of many if it ends in / or --shard is given.",
)
@click.option(
    "--backbone", default="resnet50", show_default=True, metavar="NAME", help="See `featx backbones`."
)
@backbone_options
@seed_option("For --weights none.")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NODE[:POOL]",
    help="A node of the network and how to pool it: avg, max, gem, cls, flatten. Repeat for several layers; "
    "see `featx layers`.  [default: the penultimate]",
)
@click.option(
    "--store-dtype",
    type=click.Choice(["auto", "float16", "float32"]),
    default="auto",
    show_default=True,
    help="Of the stored rows.",
)
@device_options
@fast_decode_option
@compile_option
@click.option("--strict", is_flag=True, help="Stop at the first image that cannot be used.")
@max_skip_option
@click.option("--rehash", is_flag=True, help="Read every file again, whatever its size and time say.")
@click.option(
    "--shard",
    metavar="I/N|auto",
    help="Only share I of N, counted from 0, into a directory that N processes or machines write; auto "
    "takes it from torchrun or Slurm.",
)
@click.option("--overwrite", is_flag=True, help="Replace a store made with other settings.")
@json_option
def command(as_json: bool, store: str, source: str, **options: Any) -> None:
    """Embed every image of SOURCE and keep the embeddings in a store.

    SOURCE is a folder with one folder of images per class; or with train, val (validation, dev) and
    test above those; or a flat folder without labels. Or a manifest (.csv, .tsv, .parquet: path, and label,
    split, group if there are any), arrays (.npy, .npz), an archive (.zip, .tar, .tar.gz, .bz2, .xz), or a
    URL of any of these. Run again: only what changed is computed.

    \b
    featx extract photos/ -o photos.h5
    featx extract photos/ -o vgg.h5 --backbone vgg16 --layer classifier.4
    featx extract photos/ -o mine.h5 --backbone resnet18 --weights mine.pth
    featx extract table.csv -o photos.h5             (column path, and label)
    featx extract photos/ -o store/ --shard 0/2      (and 1/2 elsewhere)
    """  # noqa: D301 - \b is click's own mark
    import featx
    from featx.cli.collection import audit_store, collection_notes
    from featx.cli.info import store_summary
    from featx.records import escape_name

    output = Output(as_json)
    with output.progress() as on_progress:
        result = featx.extract(source, store, on_progress=on_progress, **options)
    run = result.summary
    if run is None:
        raise AssertionError("extract gives a summary")
    found = audit_store(result)
    output.json(
        store_summary(result, found)
        | {
            "computed": run.computed,
            "reused": run.reused,
            "removed": run.removed,
            "run_seconds": run.seconds,
            "notes": list(run.notes),
            "images_per_second": run.computed / run.seconds if run.computed else None,
            "speed": dataclasses.asdict(run.speed) | {"share": run.speed.share} if run.speed else None,
        }
    )
    classes = len(set(result.y) - {""})
    layers = ", ".join(f"{layer.name} ({layer.dim})" for layer in result.layers)
    output.line(f"{result.path}: {len(result)} images, {_count(classes)}, {result.space.backbone}, {layers}")
    removed = f"{run.removed} removed, " if run.removed else ""
    rate = f" ({run.computed / run.seconds:.1f} images/s)" if run.computed else ""
    output.line(
        f"{run.computed} computed, {run.reused} reused, {removed}{run.skipped} skipped in "
        f"{run.seconds:.1f} s{rate}, {result.space.precision}"
    )
    if run.speed is not None:
        speed = run.speed
        output.line(
            f"{speed.images_per_second:.0f} images/s once it ran, {speed.share:.0%} of the "
            f"{speed.bound_per_second:.0f} that decoder ({speed.decode_per_second:.0f} alone) and network "
            f"({speed.network_per_second:.0f} alone) can give together"
        )
        output.line(speed.sentence)
    for note in run.notes:
        output.line(f"note: {escape_name(note)}")
    if run.skipped:
        for item in result.skipped[:5]:
            output.line(f"skipped {escape_name(item.name)}: {escape_name(item.reason)}")
        if run.skipped > 5:
            output.line(f"… and {run.skipped - 5} more: `featx info {store}` lists them")
    if "shard" in result.meta:
        return  # the notes say what is missing
    for line in collection_notes(found):
        output.line(f"note: {line}; see `{shlex.join(['featx', 'info', store])}`")
    if classes > 1:
        output.line(f"next: {shlex.join(['featx', 'fit', store])}")
    elif classes == 1:
        output.line("note: one class only; `featx fit` needs at least two folders of images, one per class")


def _count(classes: int) -> str:
    return "no classes" if not classes else f"{classes} class{'es' * (classes > 1)}"
