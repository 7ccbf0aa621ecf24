"""How much faster is an epoch of ``featx finetune`` than one of the classic torchvision tutorial loop?

Both train all of the same network from the same weights on the same files, with random crops of 8 to 100 %
of the area, mirrored half of the time, the same batches and steps. The tutorial decodes each file in each
epoch, in a DataLoader with a worker for each core, and computes in float32; featx decodes once, which is
given apart (``before_seconds``), and crops out of the 224×224 pixels that it keeps. Every run is a process
of its own, and the two take turns; the first epoch of each is not counted.

::

    python benchmarks/bench_finetune.py --output benchmarks/results/finetune.json
    python benchmarks/bench_finetune.py --data photos/train --backbone mobilenet_v2 \
        --weights mobilenet_v2=mobilenet_v2.pth
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

# After the path, so that a checkout works that is not installed.
from photos import put_photos  # noqa: E402

from featx.environment import environment  # noqa: E402

NETWORKS = ("resnet18", "squeezenet1_1", "mobilenet_v2")
WAYS = ("featx", "tutorial")
CLASSES = ("even", "odd")

Figures = dict[str, Any]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", help="folder of class folders of JPEGs; rendered ones if left out")
    parser.add_argument("--backbone", action="append", help="a network of torchvision (repeatable)")
    parser.add_argument(
        "--weights", action="append", default=[], help="NETWORK=FILE.pth (repeatable); else random ones"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--precision", default="auto", help="of featx (default: auto); the tutorial: fp32")
    parser.add_argument("--compile", action="store_true", help="let featx compile the network")
    parser.add_argument("--batch-size", type=int, default=32, help="of both (default: 32)")
    parser.add_argument("--images", type=int, default=256, help="rendered ones (default: 256)")
    parser.add_argument("--epochs", type=int, default=3, help="of each run; the first is not counted")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--output", help="write the figures to this JSON file")
    arguments = parser.parse_args()
    if arguments.epochs < 2 or arguments.repeats < 1:
        parser.error("expected --epochs of at least 2 and --repeats of at least 1")
    arguments.backbone = arguments.backbone or list(NETWORKS)
    return arguments


def put_data(arguments: argparse.Namespace, scratch: Path) -> tuple[str, str]:
    """Give the folder of class folders, and what lies there."""
    if arguments.data:
        return arguments.data, f"JPEGs of {Path(arguments.data).name}"
    what = put_photos(None, arguments.images, scratch / "flat")
    for place, photo in enumerate(sorted((scratch / "flat").iterdir())):
        folder = scratch / "photos" / CLASSES[place % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        photo.rename(folder / photo.name)
    return str(scratch / "photos"), what


def run(options: Figures) -> Figures:
    """Run one way in a process of its own; gives the JSON on its last line."""
    places = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, str(HERE / "epochs.py"), json.dumps(options)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": places},
    )
    if done.returncode:
        raise SystemExit(f"{options['run']} ended with {done.returncode}; its error stands above.")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def summary(runs: dict[str, list[Figures]]) -> Figures:
    """Give the medians of all epochs but the first of each run, and their ratio."""
    found: Figures = {}
    for way, figures in runs.items():
        epochs = [epoch["seconds"] for one in figures for epoch in one["epochs"][1:]]
        seconds = statistics.median(epochs)
        found[way] = {
            "epoch_seconds": seconds,
            "epoch_seconds_range": [min(epochs), max(epochs)],
            "images_per_second": figures[0]["images"] / seconds,
            "before_seconds": statistics.median(one["before_seconds"] for one in figures),
            "first_epoch_seconds": statistics.median(one["epochs"][0]["seconds"] for one in figures),
            "last_loss": statistics.median(one["epochs"][-1]["loss"] for one in figures),
            "last_accuracy": statistics.median(one["epochs"][-1]["accuracy"] for one in figures),
            "peak_memory_bytes": max(one["peak_memory_bytes"] for one in figures),
        }
    ratio = found["tutorial"]["epoch_seconds"] / found["featx"]["epoch_seconds"]
    return {"medians": found, "ratio": ratio, "runs": runs}


def main() -> None:
    arguments = parse()
    started = time.perf_counter()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    given = dict(item.split("=", 1) for item in arguments.weights)
    networks: dict[str, dict[str, list[Figures]]] = {name: {} for name in arguments.backbone}
    with tempfile.TemporaryDirectory() as place:
        data, what = put_data(arguments, Path(place))
        common = {name: getattr(arguments, name) for name in ("batch_size", "device", "precision")}
        common |= {"data": data, "epochs": arguments.epochs, "compile": arguments.compile}
        files = {name: given.get(name, str(Path(place) / f"{name}.pth")) for name in networks}
        for name in networks.keys() - given.keys():
            run({"run": "weights", "backbone": name, "weights": files[name]})
        for repeat in range(arguments.repeats):
            for name, runs in networks.items():
                # The one that comes first changes: a machine grows warm, its caches too.
                for way in WAYS[:: 1 if repeat % 2 == 0 else -1]:
                    options = {"run": way, "backbone": name, "weights": files[name], "seed": repeat}
                    runs.setdefault(way, []).append(run(common | options))
                    last = runs[way][-1]["epochs"][-1]["seconds"]
                    print(f"{repeat + 1}/{arguments.repeats} {name} {way}: {last:.2f} s", file=sys.stderr)
    found = {name: summary(runs) for name, runs in networks.items()}
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "data": what,
        "weights": {name: Path(given[name]).name if name in given else "random" for name in networks},
        **{name: getattr(arguments, name) for name in ("device", "batch_size", "compile")},
        "networks": found,
        "hardware": environment() | {"load_before": load},
        "seconds": time.perf_counter() - started,
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    if arguments.output:
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.output).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"{what}, batches of {arguments.batch_size}, {arguments.device}")
    for name, figures in found.items():
        ours, theirs = (figures["medians"][way] for way in WAYS)
        print(
            f"  {name:14} featx {ours['epoch_seconds']:6.2f} s an epoch (after "
            f"{ours['before_seconds']:.2f} s), tutorial {theirs['epoch_seconds']:6.2f} s: "
            f"{figures['ratio']:.2f} ×"
        )


if __name__ == "__main__":
    main()
