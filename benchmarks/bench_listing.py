"""How fast is a folder listed, and how much memory does a listing take?

Empty files in folders of classes are listed by ``featx`` and by ``os.walk``, in turn, in fresh processes.
``os.walk`` gives names; ``walk + stat`` also the size and time of each file, which featx needs to know what
changed. Memory is what Python holds for the result, and at the most.

::

    python benchmarks/bench_listing.py --files 100000 --output benchmarks/results/listing.json
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

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from featx.environment import environment  # noqa: E402

FOLDER = 1000
"""Files in each folder."""


def walk(folder: str) -> Any:
    return sorted(f"{top}/{name}" for top, _, names in os.walk(folder) for name in names)


def walk_and_stat(folder: str) -> Any:
    found = []
    for path in walk(folder):
        status = os.stat(path)  # noqa: PTH116 - as one would write it for speed
        found.append((path, status.st_size, status.st_mtime_ns))
    return found


def featx(folder: str) -> Any:
    from featx.images.sources import list_images, open_source

    return list_images(open_source(folder))


WAYS = {"featx": featx, "walk + stat": walk_and_stat, "walk": walk}


def run_one(way: str, folder: str, traced: bool) -> dict[str, float]:
    """Run in this process, which was started for it."""
    list_one = WAYS[way]
    list_one(str(Path(folder) / "0000"))  # imports
    if traced:
        import tracemalloc

        tracemalloc.start()
        listing = list_one(folder)
        held, most = tracemalloc.get_traced_memory()
        return {"held_bytes_a_file": held / len(listing), "most_bytes_a_file": most / len(listing)}
    started = time.perf_counter()
    count = len(list_one(folder))
    return {"files_per_second": count / (time.perf_counter() - started)}


def spoken(way: str, folder: str, traced: bool) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", way, "--folder", folder, *(["--traced"] * traced)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way (default: 5)")
    parser.add_argument("--output", help="write the figures to this JSON file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--traced", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments.one, arguments.folder, arguments.traced)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for number in range(-(-arguments.files // FOLDER)):
            place = Path(folder) / f"{number:04}"
            place.mkdir()
            for file in range(min(FOLDER, arguments.files - number * FOLDER)):
                (place / f"photo-{file:06}.jpg").touch()
        runs: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(arguments.repeats):
            for way, rates in runs.items():
                rates.append(spoken(way, folder, traced=False)["files_per_second"])
        memory = {way: spoken(way, folder, traced=True) for way in WAYS}
    medians = {way: statistics.median(rates) for way, rates in runs.items()}
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "files": arguments.files,
        "ways": {way: {"files_per_second": medians[way], **memory[way], "runs": runs[way]} for way in WAYS},
        "ratio_to_walk_and_stat": medians["featx"] / medians["walk + stat"],
        "ratio_to_walk": medians["featx"] / medians["walk"],
        "hardware": environment(),
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    for way, figures in memory.items():
        print(
            f"{way:12} {medians[way]:10.0f} files/s, {figures['held_bytes_a_file']:5.0f} bytes a file, "
            f"{figures['most_bytes_a_file']:5.0f} at the most"
        )


if __name__ == "__main__":
    main()
