"""How long does ``featx fit`` take from its start until the table is printed and ``results.json`` is written?

A store is made of the images (once, not timed), and ``featx fit`` is run on it with the three default heads,
each time in a fresh process and a fresh run folder. Of each run three times are taken, all from the start of
the process: when ``results.json`` is there, when the table has been printed, and when everything (model,
report, learning curve) is done. By the second, neither torch nor Matplotlib is loaded: the tests see to that.

::

    python benchmarks/bench_fit.py --data hymenoptera --weights mobilenet_v2.pth
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

from featx.environment import environment

ROOT = Path(__file__).resolve().parents[1]


def run_once(store: Path, folder: Path) -> dict[str, float]:
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    command = [sys.executable, "-m", "featx", "fit", str(store), "-o", str(folder)]
    seconds: dict[str, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        printed = b""
        while process.poll() is None:
            printed += process.stdout.read() or b""
            if "results" not in seconds and (folder / "results.json").exists():
                seconds["results"] = time.perf_counter() - started
            if "table" not in seconds and b"The best model" in printed:
                seconds["table"] = time.perf_counter() - started
            time.sleep(0.005)
    seconds["all"] = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"featx fit ended with {process.returncode}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="Images, as `featx extract` takes them.")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="Write the figures as JSON.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store.h5"
        options = [f"-o{store}", f"--backbone={arguments.backbone}", f"--weights={arguments.weights}"]
        subprocess.run(
            [sys.executable, "-m", "featx", "extract", arguments.data, *options],
            check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        runs = [run_once(store, Path(scratch) / f"run-{number}") for number in range(arguments.repeats)]
        n_images = json.loads((Path(scratch) / "run-0" / "results.json").read_text())["dataset"]["n_images"]
    medians = {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}
    print(f"{n_images} images, {arguments.backbone}: results.json after {medians['results']} s, ", end="")
    print(f"table after {medians['table']} s, everything after {medians['all']} s")
    if arguments.output:
        found = {"data": Path(arguments.data).name, "images": n_images, "backbone": arguments.backbone}
        found |= {"median_seconds": medians, "runs": runs, "environment": environment()}
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
