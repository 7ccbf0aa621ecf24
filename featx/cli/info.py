"""``featx info``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featx.cli.common import Output, json_option
from featx.errors import FeatxError, NotAStoreError
from featx.records import escape_name

if TYPE_CHECKING:
    from rich.console import Console

    from featx.collection import Collection
    from featx.store.reader import FeatureStore
    from featx.store.unfinished import Unfinished


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
        _show_store_or_why_not(given, output)


def what_it_is(path: Path, error: NotAStoreError) -> str:
    """Say what a path is that is no store; a child process looks at HDF5 that featx did not write."""
    from featx.store.foreign import describe_foreign, is_hdf5

    if not (path.is_file() and is_hdf5(path)):
        return str(error)
    try:
        return describe_foreign(path).describe()
    except FeatxError as worse:
        return str(worse)


def store_summary(store: FeatureStore, found: Collection) -> dict[str, Any]:
    """Describe a store and what was found in it in plain types; text is as it stands in the file."""
    labels = Counter(str(label) for label in store.y if label)
    splits = Counter(str(split) for split in store.splits if split)
    return {
        "kind": "store",
        "path": str(store.path),
        "images": len(store),
        "classes": dict(sorted(labels.items())),
        "unlabelled": len(store) - labels.total(),
        "splits": dict(sorted(splits.items())),
        "layers": [{"node": layer.node, "pool": layer.pool, "dim": layer.dim} for layer in store.layers],
        "space": store.space.to_json(),
        "space_key": store.space.key,
        "source": str(store.meta["source"]),
        "created": str(store.meta["created"]),
        "featx_version": str(store.meta["featx_version"]),
        "seconds": store.meta["seconds"],
        "peak_memory_bytes": store.meta["peak_memory_bytes"],
        "bytes": store.nbytes,
        "parts": store.n_parts,
        "skipped": [
            {"name": item.name, "digest": item.digest.hex(), "reason": item.reason} for item in store.skipped
        ],
        "request": store.meta["request"],
        "precision_check": store.meta["request"].get("precision_check"),
        "collection": found.to_json(),
    }


def unfinished_summary(found: Unfinished) -> dict[str, Any]:
    """Describe a store that is not finished in plain types."""
    directory = bool(found.done or found.begun)
    shards = {"done": found.done, "begun": found.begun, "missing": found.missing}
    return {
        "kind": "unfinished store",
        "path": str(found.path),
        "rows": found.rows,
        "parts": len(found.parts),
        "layers": [{"node": layer.node, "pool": layer.pool, "dim": layer.dim} for layer in found.layers],
        "spaces": [space.to_json() for space in found.spaces],
        "space_keys": [space.key for space in found.spaces],
        "seconds": found.seconds,
        "bytes": found.nbytes,
        "shards": {name: [str(s) for s in some] for name, some in shards.items()} if directory else None,
        "locks": [
            {
                "path": str(lock.path),
                "host": lock.holder.host if lock.holder else None,
                "pid": lock.holder.pid if lock.holder else None,
                "since": lock.holder.since if lock.holder else None,
                "silent_seconds": lock.silent_seconds,
            }
            for lock in found.locks
        ],
        "problems": list(found.problems),
    }


def _show_store_or_why_not(path: Path, output: Output) -> None:
    import featx
    from featx.store.unfinished import describe_unfinished, is_unfinished

    try:
        store = featx.FeatureStore(path)
    except NotAStoreError as error:
        raise FeatxError(what_it_is(path, error)) from error
    except FeatxError:
        if not is_unfinished(path):
            raise
        _show_unfinished(describe_unfinished(path), output)
        return
    with store:
        _show_store(path, store, output)


def _show_store(path: Path, store: FeatureStore, output: Output) -> None:
    from featx.cli.collection import audit_store, collection_examples, collection_words
    from featx.report.wording import format_bytes, format_seconds

    found = audit_store(store)
    summary = store_summary(store, found)
    output.json(summary)
    classes = ", ".join(f"{name} {n}" for name, n in summary["classes"].items()) or "none"
    lines = {
        "images": f"{summary['images']}",
        "classes": classes,
        "splits": ", ".join(f"{name} {n}" for name, n in summary["splits"].items()) or "none named",
        "layers": _layer_words(summary["layers"]),
        **_space_words(summary["space"]),
        **_check_words(summary["precision_check"], summary["space"]["precision"]),
        "space": summary["space_key"][:16],
        "source": summary["source"],
        "created": f"{summary['created']} by featx {summary['featx_version']}, "
        f"{format_seconds(summary['seconds'])}",
        "size": format_bytes(summary["bytes"])
        + (f" in {count(summary['parts'], 'part')}" if summary["parts"] else ""),
        "skipped": str(len(summary["skipped"])),
    }
    output.line(f"{escape_name(str(path))}: a store")
    _print_pairs(output.console, lines)
    for item in summary["skipped"]:
        output.line(escape_name(f"  {item['name']}: {item['reason']}"))
    _print_pairs(output.console, collection_words(found))
    for line in collection_examples(found):
        output.line(escape_name(f"  {line}"))


def _show_unfinished(found: Unfinished, output: Output) -> None:
    from featx.report.wording import format_bytes, format_seconds

    summary = unfinished_summary(found)
    output.json(summary)
    lines = {
        "rows": f"{found.rows} in {count(len(found.parts), 'part')}",
        "size": format_bytes(found.nbytes),
        "time": format_seconds(found.seconds),
        "layers": _layer_words(summary["layers"]) or "none",
    }
    for space in found.spaces:
        lines |= {**_space_words(space.to_json()), "space": space.key[:16]}
    if len(found.spaces) > 1:
        lines["space"] = "several: " + ", ".join(space.key[:16] for space in found.spaces)
    if summary["shards"]:
        lines |= {f"shards {name}": ", ".join(shards) for name, shards in summary["shards"].items() if shards}
    for number, lock in enumerate(found.locks):
        lines[f"locked by {number + 1}" if number else "locked by"] = (
            f"{lock.holder or 'somebody'}, last sign of life {format_seconds(lock.silent_seconds)} ago"
        )
    output.line(f"{escape_name(str(found.path))}: an unfinished store; the same extraction goes on from here")
    _print_pairs(output.console, lines)
    for problem in found.problems:
        output.line(escape_name(f"  {problem}"))


def _show_run(path: Path, output: Output) -> None:
    from featx.report.runs import load_run
    from featx.report.terminal import print_results

    run = load_run(path)
    output.json({"kind": "run", "path": str(path), **run.results})
    print_results(run.results, output.console)


def _show_model(path: Path, output: Output) -> None:
    import featx

    model = featx.Model.load(path)
    layer = model.layer.to_json()
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
    output.line(f"{escape_name(str(path))}: a model")
    lines = {
        "classes": ", ".join(str(name) for name in model.classes_),
        "backbone": f"{model.space.backbone}, {model.layer.name} ({model.layer.dim})",
        "head": f"{card['head']} {card['params']}",
        "trained on": f"{card['n_images']} images of {card['source']}",
    }
    lines |= {
        name.replace("_", " "): f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
        for name, score in card["test"].items()
    }
    _print_pairs(console, lines | {"limits": " ".join(card["limits"])})


def _layer_words(layers: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['node']}:{row['pool']} ({row['dim']})" for row in layers)


def _space_words(space: dict[str, Any]) -> dict[str, str]:
    weights = space["weights"]
    seed = f", random with seed {weights['seed']}" if "seed" in weights else ""
    return {
        "backbone": f"{space['backbone']} ({space['provider']}), "
        f"weights {str(weights.get('digest'))[:12]}{seed}",
        "input": _preprocess_words(space["preprocess"]),
        "computed in": f"{space['precision']}, stored as {space['store_dtype']}",
    }


def _check_words(check: dict[str, Any] | None, used: str) -> dict[str, str]:
    if not check:
        return {}
    text = (
        f"{check['precision']} against fp32 on {count(check['images'], 'image')}: "
        f"cosine median {check['cosine_median']:.4f}, worst {check['cosine_worst']:.4f}"
    )
    return {"checked": text if check["precision"] == used else f"{text}, too far"}


def _preprocess_words(record: dict[str, Any]) -> str:
    if not record:
        return "imported"
    side, how = record.get("image_size"), record.get("resize")
    if how == "crop":
        how = f"shorter side to {record.get('resize_size')}, central"
    return f"{how} {side}×{side}, {record.get('interpolation')}"


def count(number: int, noun: str) -> str:
    """Write a number of things."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print_pairs(console: Console, lines: dict[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines.items():
        # As Text it is no markup, and escaped it is no command to the terminal.
        table.add_row(Text(escape_name(name)), Text(escape_name(text)))
    console.print(table)
