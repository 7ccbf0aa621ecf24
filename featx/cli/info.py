"""``featx info``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featx.cli.common import Output, json_option
from featx.records import escape_name

if TYPE_CHECKING:
    from featx.store.reader import FeatureStore


@click.command("info", short_help="What a store, a run or a model holds.")
@click.argument("path")
@json_option
def command(path: str, as_json: bool) -> None:
    """Show what PATH holds: a store, a run folder or a model."""
    from zipfile import is_zipfile

    output = Output(as_json)
    given = Path(path)
    if given.is_dir() and (given / "results.json").exists():
        _show_run(given, output)
    elif given.is_file() and is_zipfile(given):
        _show_model(given, output)
    else:
        _show_store(given, output)


def store_summary(store: FeatureStore) -> dict[str, Any]:
    """Describe a store in plain types."""
    labels = Counter(str(label) for label in store.y if label)
    splits = Counter(str(split) for split in store.splits if split)
    return {
        "kind": "store",
        "path": str(store.path),
        "images": len(store),
        "classes": {escape_name(name): count for name, count in sorted(labels.items())},
        "unlabelled": len(store) - labels.total(),
        "splits": dict(sorted(splits.items())),
        "layers": [{"node": layer.node, "pool": layer.pool, "dim": layer.dim} for layer in store.layers],
        "space": store.space.to_json(),
        "space_key": store.space.key,
        "source": escape_name(str(store.meta["source"])),
        "created": escape_name(str(store.meta["created"])),
        "featx_version": escape_name(str(store.meta["featx_version"])),
        "seconds": store.meta["seconds"],
        "peak_memory_bytes": store.meta["peak_memory_bytes"],
        "bytes": store.nbytes,
        "parts": store.n_parts,
        "skipped": [
            {"name": escape_name(item.name), "digest": item.digest.hex(), "reason": item.reason}
            for item in store.skipped
        ],
        "request": store.meta["request"],
    }


def _show_store(path: Path, output: Output) -> None:
    import featx
    from featx.report.wording import format_bytes, format_seconds

    summary = store_summary(featx.FeatureStore(path))
    output.json(summary)
    console, space = output.console, summary["space"]
    classes = ", ".join(f"{name} {count}" for name, count in summary["classes"].items()) or "none"
    lines = {
        "images": f"{summary['images']}",
        "classes": classes,
        "splits": ", ".join(f"{name} {count}" for name, count in summary["splits"].items()) or "none named",
        "layers": ", ".join(f"{row['node']}:{row['pool']} ({row['dim']})" for row in summary["layers"]),
        "backbone": f"{space['backbone']} ({space['provider']}), weights {space['weights']['digest'][:12]}"
        + (f", random with seed {space['weights']['seed']}" if "seed" in space["weights"] else ""),
        "input": _preprocess_words(space["preprocess"]),
        "computed in": f"{space['precision']}, stored as {space['store_dtype']}",
        "space": summary["space_key"][:16],
        "source": summary["source"],
        "created": f"{summary['created']} by featx {summary['featx_version']}, "
        f"{format_seconds(summary['seconds'])}",
        "size": format_bytes(summary["bytes"])
        + (f" in {summary['parts']} parts" if summary["parts"] else ""),
        "skipped": str(len(summary["skipped"])),
    }
    output.line(f"{path}: a store")
    _print_pairs(console, lines)
    for item in summary["skipped"]:
        output.line(f"  {item['name']}: {item['reason']}")


def _show_run(path: Path, output: Output) -> None:
    from featx.report.runs import load_run
    from featx.report.terminal import print_results

    run = load_run(path)
    output.json({"kind": "run", "path": str(path), **run.results})
    print_results(run.results, output.console)


def _show_model(path: Path, output: Output) -> None:
    import featx

    model = featx.Model.load(path)
    layer = {"node": model.layer.node, "pool": model.layer.pool, "dim": model.layer.dim}
    output.json(
        {
            "kind": "model",
            "path": str(path),
            "classes": [str(name) for name in model.classes_],
            "space": model.space.to_json(),
            "layer": layer,
            "card": model.card,
        }
    )
    console, card = output.console, model.card
    output.line(f"{path}: a model")
    lines = {
        "classes": ", ".join(escape_name(str(name)) for name in model.classes_),
        "backbone": f"{model.space.backbone}, {model.layer.name} ({model.layer.dim})",
        "head": f"{card['head']} {card['params']}",
        "trained on": f"{card['n_images']} images of {escape_name(str(card['source']))}",
    }
    lines |= {
        name.replace("_", " "): f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
        for name, score in card["test"].items()
    }
    _print_pairs(console, lines | {"limits": " ".join(card["limits"])})


def _preprocess_words(record: dict[str, Any]) -> str:
    if not record:
        return "imported"
    side = record["image_size"]
    how = (
        f"shorter side to {record['resize_size']}, central"
        if record["resize"] == "crop"
        else record["resize"]
    )
    return f"{how} {side}×{side}, {record['interpolation']}"


def _print_pairs(console: Any, lines: dict[str, str]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines.items():
        table.add_row(name, text.replace("[", r"\["))
    console.print(table)
