"""``featx bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featx.cli.common import (
    Output,
    backbone_options,
    compile_option,
    device_options,
    fast_decode_option,
    json_option,
)

if TYPE_CHECKING:
    from rich.table import Table

    from featx.throughput import Throughput


@click.command("bench", short_help="What this machine could do, and what holds it back.")
@click.argument("source", required=False)
@click.option(
    "--backbone", default="featx-tiny", show_default=True, metavar="NAME", help="See `featx backbones`."
)
@backbone_options
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NODE[:POOL]",
    help="As for `featx extract`: nothing after the last node is computed.",
)
@device_options
@compile_option
@fast_decode_option
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="N",
    help="Images to measure on, again and again.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=16,
    show_default=True,
    metavar="S",
    help="Time for measuring.",
)
@json_option
def command(as_json: bool, source: str | None, **options: Any) -> None:
    """Measure decoding alone, the network alone and both together, in images per second.

    SOURCE is a folder of images; without it, photo-like JPEGs are rendered in memory. With
    `--weights none` no weights are needed, and the speed is the same.

    \b
    featx bench
    featx bench photos/ --backbone resnet50 --weights none
    """  # noqa: D301 - \b is click's own mark
    import featx

    output = Output(as_json)
    with output.progress() as on_progress:
        found = featx.measure_throughput(source, on_progress=on_progress, **options)
    output.json(found.to_json())
    hardware = found.hardware
    device = hardware.get("accelerator", hardware["processor"] or hardware["machine"])
    output.line(
        f"{found.backbone}, {found.precision} on {found.device} ({device}), {found.cores} cores; batches of "
        f"{found.batch_size}, {found.workers} workers; {found.source}"
    )
    if found.skipped:
        output.line(
            f"{found.skipped} of {found.skipped + found.images} images cannot be used and were left out"
        )
    output.console.print(_table(found))
    output.line(found.sentence)
    for note in found.notes:
        output.line(f"note: {note}")


def _table(found: Throughput) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    table.add_column("images/s", justify="right")
    table.add_column("")
    table.add_row(
        "decode only", _rate(found.decode_per_second), f"{_rate(found.decode_per_core)} with one worker"
    )
    table.add_row("network only", _rate(found.network_per_second))
    table.add_row("bound", _rate(found.bound), "what both can give together")
    table.add_row("end to end", _rate(found.end_to_end_per_second), f"{found.share:.0%} of the bound")
    return table


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
