"""``featx layers``."""

from __future__ import annotations

import dataclasses

import click

from featx.cli.common import Output, json_option


@click.command("layers", short_help="The nodes of a network.")
@click.argument("backbone")
@json_option
def command(backbone: str, as_json: bool) -> None:
    """List the nodes of BACKBONE: output shape, width, and share of the compute up to there.

    A star marks the penultimate one, which is taken where no layer is asked for.
    """
    import featx

    nodes = featx.list_nodes(backbone)
    output = Output(as_json)
    output.json({"backbone": backbone, "nodes": [dataclasses.asdict(node) for node in nodes]})
    if as_json:
        return
    width = max(len(node.name) for node in nodes)
    click.echo(f"  {'node':{width}}  {'shape':>12}  {'width':>6}  {'compute':>7}")
    for node in nodes:
        mark = "*" if node.is_penultimate else " "
        shape = "×".join(str(side) for side in node.shape)
        click.echo(f"{mark} {node.name:{width}}  {shape:>12}  {node.width:>6}  {node.share:>7.1%}")
