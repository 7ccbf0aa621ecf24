"""What does a store cost that loses nothing, and how fast is it read?

* ``write``: a batch of 256 × 2048 float16 rows, every fsync included, against a bare ``h5py`` write;
* ``resume``: until a writer knows what the parts of an unfinished run hold; opening and verifying a store;
* ``rerun``: ``featx extract`` of a folder that did not change, or hardly, against the first run;
* ``read``: random batches of 256 rows from 1,000,000 × 512 float16, and all of them from top to bottom.

Times are wall times and medians; contestants take turns in one process, and what one of them left to be
written is on the disk before the next one begins. Whatever is read has been read before, so that it comes
from the page cache. Before anything is timed, the rows that come back are compared with those that went in.

::

    python benchmarks/bench_store.py --output benchmarks/results/store.json
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# After the path, so that a checkout works that is not installed.
from bench_extract import choose_images  # noqa: E402

import featx  # noqa: E402
from featx.environment import environment  # noqa: E402
from featx.images.synthetic import synthetic_photos  # noqa: E402
from featx.records import ImageRecord, LayerInfo, Space  # noqa: E402
from featx.sharding import Shard  # noqa: E402
from featx.store.directorywriter import DirectoryWriter  # noqa: E402
from featx.store.partswriter import PartsWriter  # noqa: E402
from featx.store.reader import FeatureStore  # noqa: E402
from featx.store.writer import IndexRow, StoreWriter  # noqa: E402

BATCH = 256
"""Rows of a batch."""

WIDE, NARROW = LayerInfo("avgpool", "avg", 2048), LayerInfo("avgpool", "avg", 512)
"""What is written and resumed, and what is read: the widths of ResNet-50 and of ResNet-18."""

SPACE = Space("custom", "bench", {"digest": "0"}, {}, "1", "fp32", "float16")

DIRECTORY_PARTS = 10
"""Parts of the directory store that is read."""

CHANGED = 10
"""Images that change between two runs."""

Runs = dict[str, list[float]]
Calls = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Sizes:
    """How much is measured: ``batches`` are written, ``parts`` left over, ``rows`` read in ``draws``."""

    batches: int = 400
    parts: int = 20
    images: int = 2000
    rows: int = 1_000_000
    draws: int = 2000
    repeats: int = 5
    reruns: int = 7


QUICK = Sizes(batches=40, parts=4, images=64, rows=50_000, draws=100, repeats=3, reruns=3)


@dataclass(frozen=True)
class Figure:
    """One line of the answer; ``target`` is what must be reached, such as ``">= 100"``."""

    what: str
    value: float
    unit: str
    target: str = ""

    @property
    def verdict(self) -> str:
        """``met``, ``MISSED``, or nothing where there is no target."""
        if not self.target:
            return ""
        sign, limit = self.target.split()
        good = self.value <= float(limit) if sign == "<=" else self.value >= float(limit)
        return "met" if good else "MISSED"

    def __str__(self) -> str:
        value = f"{self.value:,.0f}" if self.value >= 1000 else f"{self.value:.3g}"
        return f"  {self.what:44} {value:>9} {self.unit:8} {self.target:7} {self.verdict}".rstrip()


class Material:
    """Rows to be written, and their index."""

    def __init__(self, batches: int, layer: LayerInfo) -> None:
        rng = np.random.default_rng(0)
        self.layer = layer
        self.batches = batches
        self.rows = batches * BATCH
        # A few batches that return: what is measured depends on their number, not on their values.
        shape = (BATCH, layer.dim)
        self._values = [np.abs(rng.standard_normal(shape, np.float32)) for _ in range(8)]
        self.digests = rng.integers(0, 256, (self.rows, 32), dtype=np.uint8)
        self.phashes = rng.integers(0, 2**64, self.rows, dtype=np.uint64)
        self.records = [
            ImageRecord(f"class-{row % 10}/{row:07}.jpg", f"class-{row % 10}", size=row, mtime_ns=row)
            for row in range(self.rows)
        ]
        digests = [row.tobytes() for row in self.digests]
        self.images = [IndexRow(*pair) for pair in zip(self.records, digests, strict=True)]
        # Else the garbage collector walks these in the middle of what is timed.
        gc.collect()
        gc.freeze()

    def __iter__(self) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        return (self._values[number % len(self._values)] for number in range(self.batches))

    def expected(self) -> np.ndarray[Any, np.dtype[np.float16]]:
        """Give what the store must hold."""
        return np.concatenate([batch.astype("<f2") for batch in self])

    def writer(self, path: Path) -> PartsWriter:
        """Make a writer of a file, or of a directory where the path has no suffix."""
        options: dict[str, Any] = {"request": {}, "source": "bench", "flush_seconds": math.inf}
        if path.suffix:
            return StoreWriter(path, SPACE, [self.layer], **options)
        return DirectoryWriter(path, SPACE, [self.layer], shard=Shard(0, 1), listing=self.records, **options)

    def add(self, writer: PartsWriter, flush_every: int | None = None) -> None:
        """Hand every batch to an entered writer."""
        for number, batch in enumerate(self):
            rows = slice(number * BATCH, (number + 1) * BATCH)
            writer.add(self.digests[rows], self.phashes[rows], {self.layer.name: batch})
            if flush_every and (number + 1) % flush_every == 0:
                writer.flush()


def bench_write(work: Path, sizes: Sizes) -> tuple[list[Figure], Runs]:
    """Time writing, from the first byte to the finished store."""
    material = Material(sizes.batches, WIDE)
    contestants: dict[str, Callable[[], dict[str, float]]] = {
        "h5py": lambda: write_bare(work / "bare.h5", material, sync=False),
        "h5py + fsync": lambda: write_bare(work / "bare.h5", material, sync=True),
        "file": lambda: write_store(work / "store.h5", material),
        "directory": lambda: write_store(work / "store", material),
    }
    for name in ("file", "directory"):
        contestants[name]()
        require_rows(work / ("store.h5" if name == "file" else "store"), material)
        clear(work)
    runs: Runs = defaultdict(list)
    for repeat in range(sizes.repeats):
        for name in turn(contestants, repeat):
            for step, seconds in contestants[name]().items():
                runs[f"{name}: {step}"].append(seconds)
            clear(work)
    spent = medians(runs)

    def per_batch(what: str, name: str) -> Figure:
        return Figure(what, spent[name] / sizes.batches * 1000, "ms/batch")

    def ratio(name: str, other: str) -> Figure:
        return Figure(f"{name} against {other}", spent[f"{name}: total"] / spent[f"{other}: total"], "×")

    figures = [per_batch("h5py", "h5py: total"), per_batch("h5py and one fsync", "h5py + fsync: total")]
    for name in ("file", "directory"):
        figures += [
            per_batch(f"{name}, all fsyncs", f"{name}: total"),
            per_batch("  rounded and checked", f"{name}: add"),
            per_batch("  written as parts", f"{name}: flush"),
            per_batch("  finished", f"{name}: finish"),
            ratio(name, "h5py"),
            ratio(name, "h5py + fsync"),
        ]
    return figures, runs


def write_bare(path: Path, material: Material, *, sync: bool) -> dict[str, float]:
    """Write what people write: one dataset, no index, nothing to go on from after a kill."""
    begun = time.perf_counter()
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("rows", (material.rows, material.layer.dim), "<f2")
        for number, batch in enumerate(material):
            dataset[number * BATCH : (number + 1) * BATCH] = batch.astype("<f2")
    if sync:
        descriptor = os.open(path, os.O_RDWR)
        os.fsync(descriptor)
        os.close(descriptor)
    return {"total": time.perf_counter() - begun}


def write_store(path: Path, material: Material) -> dict[str, float]:
    """Write a store, and say how long each step takes."""
    flushing = 0.0
    begun = time.perf_counter()
    with material.writer(path) as writer:
        flush = writer.flush

        def timed() -> None:
            nonlocal flushing
            started = time.perf_counter()
            flush()
            flushing += time.perf_counter() - started

        writer.flush = timed  # type: ignore[method-assign] - `add` calls it when a part is due
        entered = time.perf_counter()
        material.add(writer)
        writer.flush()
        added = time.perf_counter()
        writer.finish(material.images, [], {})
        finished = time.perf_counter()
    total = time.perf_counter() - begun
    return {"total": total, "add": added - entered - flushing, "flush": flushing, "finish": finished - added}


def bench_resume(work: Path, sizes: Sizes) -> tuple[list[Figure], Runs]:
    """Time entering a writer over what an unfinished and a finished run left, opening, and verifying."""
    material = Material(sizes.batches, WIDE)
    paths = {"file": work / "store.h5", "directory": work / "store"}
    for path in paths.values():
        with material.writer(path) as writer:
            material.add(writer, sizes.batches // sizes.parts)
    runs: Runs = defaultdict(list)

    def enter(name: str, found: str) -> None:
        started = time.perf_counter()
        with material.writer(paths[name]) as writer:
            runs[f"{name}: enter over {found}"].append(time.perf_counter() - started)
            if len(writer.known) != material.rows:
                raise SystemExit(f"{paths[name]} holds {len(writer.known)} rows, expected {material.rows}")

    for repeat in range(sizes.repeats):
        for name in turn(paths, repeat):
            enter(name, "parts")
    for path in paths.values():
        with material.writer(path) as writer:
            writer.finish(material.images, [], {})
        require_rows(path, material)
    sizes_on_disk = {}
    for repeat in range(sizes.repeats):
        for name in turn(paths, repeat):
            enter(name, "a finished store")
            started = time.perf_counter()
            store = FeatureStore(paths[name])
            runs[f"{name}: open"].append(time.perf_counter() - started)
            store.X(material.layer.node)
            runs[f"{name}: open and X"].append(time.perf_counter() - started)
            _ = store.names, store.y
            runs[f"{name}: open, X, names and y"].append(time.perf_counter() - started)
            started = time.perf_counter()
            store.verify()
            runs[f"{name}: verify"].append(time.perf_counter() - started)
            sizes_on_disk[name] = store.nbytes
            store.close()
            del store  # or the next opening would pay for freeing it
    spent = medians(runs)
    figures = []
    for name in paths:
        for found in ("parts", "a finished store"):
            seconds = spent[f"{name}: enter over {found}"]
            what = f"{sizes.parts} parts" if found == "parts" else found
            figures += [
                Figure(f"{name}: resume over {what}", seconds, "s"),
                Figure("  that is", material.rows / seconds, "images/s"),
            ]
        figures += [
            Figure(f"{name}: open", spent[f"{name}: open"] * 1000, "ms"),
            Figure(f"{name}: open and X", spent[f"{name}: open and X"] * 1000, "ms"),
            Figure(f"{name}: open, X, names and y", spent[f"{name}: open, X, names and y"] * 1000, "ms"),
            Figure(f"{name}: verify", sizes_on_disk[name] / spent[f"{name}: verify"] / 1e9, "GB/s"),
        ]
    return figures, runs


def bench_rerun(work: Path, sizes: Sizes) -> tuple[list[Figure], Runs]:
    """Time whole commands: the first extraction, those of the same folder, and of one with new images."""
    photos, store = work / "photos", work / "photos.h5"
    choose_images(None, sizes.images, photos)
    options: dict[str, Any] = {"backbone": "resnet50", "weights": "none"}
    runs: Runs = defaultdict(list)

    def command(name: str, computed: int) -> None:
        line = [sys.executable, "-m", "featx", "extract", str(photos), "-o", str(store), "--json"]
        line += [f"--{option}={value}" for option, value in options.items()]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        started = time.perf_counter()
        done = subprocess.run(
            line, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path}
        )
        runs[name].append(time.perf_counter() - started)
        if done.returncode:
            raise SystemExit(f"featx extract ended with {done.returncode}: {done.stderr}")
        found = json.loads(done.stdout)
        if found["computed"] != computed or found["skipped"]:
            raise SystemExit(
                f"{name}: {found['computed']} images were computed, expected {computed}; "
                f"{len(found['skipped'])} were skipped, expected none"
            )

    command("first", sizes.images)
    for _ in range(sizes.reruns):
        command("again", 0)
        started = time.perf_counter()
        featx.extract(photos, store, **options).close()
        runs["again, in process"].append(time.perf_counter() - started)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import numpy, h5py, PIL.Image, click"], check=True)
        runs["Python and imports"].append(time.perf_counter() - started)
    if "torch" in sys.modules:
        raise SystemExit("featx.extract of an unchanged folder loaded torch")
    names = sorted(photos.iterdir())
    for repeat in range(sizes.repeats):
        changed = np.random.default_rng(repeat).choice(len(names), CHANGED, replace=False)
        new = synthetic_photos(CHANGED, seed=10**6 + repeat)
        for index, photo in zip(changed.tolist(), new, strict=True):
            names[index].write_bytes(photo)
        command(f"{CHANGED} changed", CHANGED)
    spent = medians(runs)
    first, again, some = spent["first"], spent["again"], spent[f"{CHANGED} changed"]
    figures = [
        Figure(f"first run, {sizes.images} images", first, "s"),
        Figure("second run", again, "s", "<= 1"),
        Figure("  of it: Python, numpy, h5py, Pillow, click", spent["Python and imports"], "s"),
        Figure("first against second", first / again, "×", ">= 100"),
        Figure("second run in a running process", spent["again, in process"], "s"),
        Figure(f"run with {CHANGED} changed images", some, "s"),
        Figure(f"first against that with {CHANGED} changed", first / some, "×"),
    ]
    return figures, runs


def bench_read(work: Path, sizes: Sizes) -> tuple[list[Figure], Runs]:
    """Time random batches and whole passes over a file and a directory, opened anew each time."""
    file, directory = work / "store.h5", work / "store"
    make_stores(file, directory, sizes.rows)
    rng = np.random.default_rng(1)
    runs: Runs = defaultdict(list)
    for repeat in range(sizes.repeats):
        with ExitStack() as stack:
            # One of each for every way, or one would find the pages that another has mapped.
            stores = [stack.enter_context(FeatureStore(path)) for path in (file, file, directory)]
            dataset = stack.enter_context(h5py.File(file))[f"features/{NARROW.name}"]
            for store in stores:  # so that every part is open
                store.take(NARROW.node, range(0, sizes.rows, sizes.rows // DIRECTORY_PARTS))
            for draw in range(sizes.draws):
                calls = random_reads(stores, rng)
                if draw % 20 == 0:
                    rows = np.unique(rng.integers(0, sizes.rows, BATCH))
                    calls["h5py"] = partial(dataset.__getitem__, rows)
                time_in_turn(calls, repeat + draw, runs)
            time_in_turn(passes(stores[0], stores[2], file), repeat, runs)
    figures = []
    size = sizes.rows * NARROW.dim * 2
    for name, seconds in runs.items():
        middle = statistics.median(seconds)
        if not name.startswith("all: "):
            target = "<= 1" if name != "h5py" else ""
            figures.append(Figure(f"{BATCH} random rows: {name}", middle * 1000, "ms", target))
            late = float(np.quantile(seconds, 0.99))
            figures.append(Figure("  99th percentile", late * 1000, "ms", target))
            first = statistics.median(seconds[:: len(seconds) // sizes.repeats])
            figures.append(Figure("  first after opening", first * 1000, "ms"))
        else:
            target = ">= 1" if name in ("all: X", "all: blocks") else ""
            figures.append(Figure(name, size / middle / 1e9, "GB/s", target))
    return figures, runs


def random_reads(stores: Sequence[FeatureStore], rng: np.random.Generator) -> Calls:
    """Name the ways to read some rows; others for each, or one would fetch them for the next."""
    mapped, taken, spread = rng.integers(0, len(stores[0]), (3, BATCH))
    return {
        "X[rows]": partial(stores[0].X(NARROW.node).__getitem__, mapped),
        "take": partial(stores[1].take, NARROW.node, taken),
        "take of a directory": partial(stores[2].take, NARROW.node, spread),
    }


def passes(one: FeatureStore, many: FeatureStore, file: Path) -> Calls:
    """Name the ways to read all rows."""
    X = one.X(NARROW.node)
    return {
        "all: plain reads": lambda: read_plainly(file),
        "all: X": lambda: add_up(X[start : start + 8192] for start in range(0, len(X), 8192)),
        "all: blocks": lambda: add_up(one.blocks(NARROW.node)),
        "all: blocks of a directory": lambda: add_up(many.blocks(NARROW.node)),
        "all: X of a directory": lambda: many.X(NARROW.node),
        "all: X to contiguous float32": lambda: np.ascontiguousarray(X, np.float32),
    }


def time_in_turn(calls: Calls, repeat: int, runs: Runs) -> None:
    """Call each once; what they give back is freed outside of the time."""
    for name in turn(calls, repeat):
        started = time.perf_counter()
        result = calls[name]()
        runs[name].append(time.perf_counter() - started)
        del result


def make_stores(file: Path, directory: Path, rows: int) -> None:
    """Write the same random rows to a file and to a directory, and compare some that come back."""
    rng = np.random.default_rng(0)
    X = np.empty((rows, NARROW.dim), "<f2")
    for start in range(0, rows, 10_000):
        X[start : start + 10_000] = rng.random((min(10_000, rows - start), NARROW.dim), np.float32)
    FeatureStore.from_arrays(file, {NARROW.name: X}).close()
    digests = rng.integers(0, 256, (rows, 32), dtype=np.uint8)
    phashes = np.zeros(rows, np.uint64)
    records = [ImageRecord(f"{row:07}.jpg") for row in range(rows)]
    per_part = rows // DIRECTORY_PARTS
    options: dict[str, Any] = {"request": {}, "source": "bench", "flush_seconds": math.inf}
    options |= {"flush_bytes": sys.maxsize, "shard": Shard(0, 1), "listing": records}
    with DirectoryWriter(directory, SPACE, [NARROW], **options) as writer:
        for start in range(0, rows, per_part // 10):
            chosen = slice(start, start + per_part // 10)
            writer.add(digests[chosen], phashes[chosen], {NARROW.name: X[chosen].astype(np.float32)})
            if chosen.stop % per_part == 0:
                writer.flush()
        keys = (row.tobytes() for row in digests)
        writer.finish([IndexRow(*pair) for pair in zip(records, keys, strict=True)], [], {})
    some = rng.integers(0, rows, 10 * BATCH)
    for path in (file, directory):
        with FeatureStore(path) as store:
            same = np.array_equal(store.take(NARROW.node, some), X[some])
            if not same or not np.array_equal(store.X(NARROW.node), X):
                raise SystemExit(f"{path} gives other rows than were written")
            if path is directory and store.n_parts != DIRECTORY_PARTS:
                raise SystemExit(f"{path} has {store.n_parts} parts, expected {DIRECTORY_PARTS}")


def add_up(blocks: Iterator[np.ndarray[Any, Any]]) -> int:
    """Touch every byte; as integers, because adding float16 would be what is measured."""
    return sum(int(block.view(np.uint64).sum()) for block in blocks)


def read_plainly(path: Path) -> None:
    """Read a file as fast as the page cache gives it: the bound."""
    buffer = bytearray(8 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def require_rows(path: Path, material: Material) -> None:
    """Make sure that a store holds what was written; ends the program if it does not."""
    with FeatureStore(path) as store:
        same = np.array_equal(store.X(material.layer.node), material.expected())
        if not same or store.names != [record.name for record in material.records]:
            raise SystemExit(f"{path} gives other rows than were written, so that nothing was timed")


def clear(work: Path) -> None:
    """Remove what a contestant wrote, and let the disk come to rest."""
    for path in work.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.sync()


def turn(contestants: Sequence[str] | dict[str, Any], repeat: int) -> list[str]:
    """Order the contestants: another one comes first each time."""
    names = list(contestants)
    first = repeat % len(names)
    return names[first:] + names[:first]


def medians(runs: Runs) -> dict[str, float]:
    return {name: statistics.median(seconds) for name, seconds in runs.items()}


def in_short(seconds: list[float]) -> list[float]:
    """Give all the times, or the 0th to the 100th percentile of very many."""
    return seconds if len(seconds) <= 101 else np.quantile(seconds, np.linspace(0, 1, 101)).tolist()


def file_system(path: Path) -> str:
    """Name the kind of file system, which decides what an fsync costs; empty where it is not known."""
    try:
        lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    holding = [fields for fields in lines if path.resolve().is_relative_to(fields[1])]
    return max(holding, key=lambda fields: len(fields[1]))[2] if holding else ""


QUESTIONS = {"write": bench_write, "resume": bench_resume, "rerun": bench_rerun, "read": bench_read}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=QUESTIONS, action="append", help="one question; may be repeated")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script itself")
    parser.add_argument("--work-dir", help="where the files go, 3 GB; else the system's own for such")
    parser.add_argument("--output", help="write the figures to this JSON file")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else Sizes()
    figures: dict[str, list[Figure]] = {}
    runs: dict[str, Runs] = {}
    load = os.getloadavg()[0]
    for name in arguments.only or QUESTIONS:
        with tempfile.TemporaryDirectory(dir=arguments.work_dir) as place:
            where = file_system(Path(place))
            figures[name], runs[name] = QUESTIONS[name](Path(place), sizes)
        gc.unfreeze()
        print(f"{name:65} target")
        print("\n".join(map(str, figures[name])), flush=True)
    found = {
        "question": (__doc__ or "").split("\n")[0],
        "quick": arguments.quick,
        "sizes": asdict(sizes),
        "figures": {
            name: [asdict(figure) | {"verdict": figure.verdict} for figure in answers]
            for name, answers in figures.items()
        },
        "runs": {
            name: {step: in_short(seconds) for step, seconds in steps.items()} for name, steps in runs.items()
        },
        "hardware": environment() | {"file_system": where, "load_average_before": load},
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
