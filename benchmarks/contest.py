"""What the extraction benchmarks share: contestants in turn, each run a fresh process, agreement first."""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

# After the path, so that a checkout works that is not installed.
from photos import put_first, put_photos  # noqa: E402
from seeding import environment_of  # noqa: E402

from featx.environment import environment, package_versions  # noqa: E402

FEWEST = 64
"""Images below which there is no steady state."""

CHECKED = 32
"""Images on which the embeddings are compared."""

EXACT = 1e-4
"""Relative L2 error that is allowed for each row in fp32."""

COSINE_MEDIAN, COSINE_WORST = 0.998, 0.995
"""What the rows of every timed run must reach against the rows they should have in fp32."""

WARMING = 512
"""Images of the run that fills a warm cache: enough for featx to try its ways."""

GPU_IMAGES, GPU_MINUTES = 10_000, 9.0

Figures = dict[str, Any]


@dataclass(frozen=True)
class Match:
    """How a contestant is compared with featx in fp32.

    Parameters
    ----------
    featx : mapping
        Arguments that give featx the preprocessing and the layer of the other.
    limit : float
        Relative L2 error that is allowed for each row.
    options : mapping
        What the other needs for the comparison, and does not have when it is timed.
    note : str
        Why it is not the plain comparison.
    """

    featx: Mapping[str, Any] = field(default_factory=dict)
    limit: float = EXACT
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


def parser_for(question: str | None) -> argparse.ArgumentParser:
    """Build the options that the extraction benchmarks share."""
    parser = argparse.ArgumentParser(description=(question or "").split("\n")[0])
    parser.add_argument("--data", help="folder of JPEGs; rendered ones if left out")
    parser.add_argument("--backbone", action="append", help="a network of torchvision (repeatable)")
    parser.add_argument("--weights", help="a .pth file, for one backbone; random ones if left out")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--precision", default="auto", help="of featx (default: auto); the others: fp32")
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"), help="of featx")
    parser.add_argument(
        "--cache",
        default="cold",
        choices=("cold", "warm", "keep"),
        help="featx's compiled networks: none in each run (default), those of one run before, or your own",
    )
    parser.add_argument("--images", type=int, help=f"default: 2000, with cuda {GPU_IMAGES}")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contestant (default: 3)")
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"begin no run that would end later (default with cuda: {GPU_MINUTES:g})",
    )
    parser.add_argument("--work-dir", help="where the images lie meanwhile (default: the temporary folder)")
    parser.add_argument("--output", help="write the figures to this JSON file (cuda: results/…-GPU.json)")
    return parser


class Contest:
    """Images, weights and processes of one benchmark; its temporary folder goes with it.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of :func:`parser_for`, ``backbone`` being a list.
    scratch : Path
        An empty folder.
    """

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        self.started = time.perf_counter()
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        on_gpu = arguments.device.startswith("cuda")
        arguments.images = arguments.images or (GPU_IMAGES if on_gpu else 2000)
        arguments.minutes = arguments.minutes or (GPU_MINUTES if on_gpu else None)
        if arguments.images < FEWEST or arguments.repeats < 1:
            raise SystemExit(f"Expected --images of at least {FEWEST} and --repeats of at least 1.")
        if arguments.weights and len(arguments.backbone) > 1:
            raise SystemExit("--weights belongs to one network; give one --backbone.")
        self.arguments, self.scratch = arguments, scratch
        (scratch / "cache").mkdir()
        asked = {
            "folder": str(scratch),
            "backbones": arguments.backbone,
            "weights": arguments.weights,
            "device": arguments.device,
        }
        self.facts: Figures = self._spoken("seeding.py", asked, "the weights", environment_of(scratch))
        self.what = put_photos(arguments.data, arguments.images, scratch / "photos")
        self.few = put_first(scratch / "photos", CHECKED, scratch / "few")
        self.some = put_first(scratch / "photos", WARMING, scratch / "some")
        self.expected: dict[tuple[str, str], Any] = {}
        self.runs: dict[str, dict[str, list[Figures]]] = {name: {} for name in arguments.backbone}

    def run(
        self, name: str, backbone: str, folder: Path | None = None, featx: Mapping[str, Any] = {}, **more: Any
    ) -> tuple[Figures, Any]:
        """Run one contestant in a process of its own; gives its figures and its first rows."""
        import numpy as np

        arguments = self.arguments
        file = self.scratch / "rows.npy"
        options = {
            "run": name,
            "data": str(folder or self.scratch / "photos"),
            "backbone": backbone,
            "weights": self.facts["weights"][backbone],
            "node": self.facts["nodes"][backbone],
            "device": arguments.device,
            "featx": {"precision": arguments.precision, "compile": arguments.compile} | dict(featx),
            "rows": str(file),
            "kept": CHECKED,
        } | more
        environ = environment_of(self.scratch) | (self.cache() if name == "featx" else {})
        started = time.perf_counter()
        figures = self._spoken("contestants.py", options, name, environ)
        seconds = time.perf_counter() - started
        figures |= {"total_seconds": seconds, "total_per_second": figures["images"] / seconds}
        return figures, np.load(file).astype(np.float64)

    def cache(self, fresh: bool = True) -> dict[str, str]:
        """Give the variables that say where compiled networks are kept."""
        if self.arguments.cache == "keep":
            return {}
        shared = self.scratch / "cache" / "shared"
        if self.arguments.cache == "warm" or not fresh:
            shared.mkdir(exist_ok=True)
            place = shared
        else:
            place = Path(tempfile.mkdtemp(dir=self.scratch / "cache"))
        return {"FEATX_CACHE_DIR": str(place), "TORCHINDUCTOR_CACHE_DIR": str(place / "inductor")}

    def check(self, backbone: str, matches: Mapping[str, Match]) -> Figures:
        """Compare all embeddings of a few images; ends the program if they do not agree.

        A cache that is to be warm is warmed before.
        """
        if self.arguments.cache == "warm" and self.arguments.compile != "off":
            figures, _ = self.run("featx", backbone, self.some, {"compile": "on"})
            say(f"{backbone}: the cache is warm after {figures['total_seconds']:.1f} s")
        exact = {"precision": "fp32", "compile": "off"}
        known: dict[str, Any] = {}
        agreement: Figures = {}
        for name, match in ({"featx": Match()} | dict(matches)).items():
            key = json.dumps(match.featx, sort_keys=True)
            if key not in known:
                known[key] = self.run("featx", backbone, self.few, exact | dict(match.featx))[1]
            if name == "featx":
                self.expected[name, backbone] = known[key]
                # Compiled, because the timed runs may come to that.
                compiled = "off" if self.arguments.compile == "off" else "on"
                rows = self.run(name, backbone, self.few, {"compile": compiled})[1]
                agreement[name] = self._require(name, backbone, rows)
                continue
            rows = self.run(name, backbone, self.few, **match.options)[1]
            found = differences(rows, known[key])
            if not found["relative_l2_worst"] <= match.limit:
                raise SystemExit(f"{name} and featx do not agree on {backbone}; nothing was timed: {found}")
            if match.options:
                rows = self.run(name, backbone, self.few)[1]
                found["as_it_is_timed"] = differences(rows, known[key])
            self.expected[name, backbone] = rows
            agreement[name] = found | ({"note": match.note} if match.note else {})
        say(f"{backbone}: the embeddings agree: {json.dumps(agreement, ensure_ascii=False)}")
        return agreement

    def measure(
        self, names: Mapping[str, Sequence[str]], beside: Callable[[str], None] | None = None
    ) -> None:
        """Run the contestants of every network in turn, as often as was asked and as time allows."""
        arguments, longest, done = self.arguments, 0.0, 0
        for repeat in range(arguments.repeats):
            for backbone in arguments.backbone:
                began = time.perf_counter()
                left = (arguments.minutes or 1e9) * 60 - (began - self.started)
                if done and left < longest:
                    say(f"no time is left for {backbone}, repeat {repeat + 1}")
                    return
                # The one that comes first changes: a machine grows warm, its caches too.
                turn = repeat % len(names[backbone])
                for name in [*names[backbone][turn:], *names[backbone][:turn]]:
                    figures, rows = self.run(name, backbone)
                    self._require(name, backbone, rows)
                    self.runs[backbone].setdefault(name, []).append(figures)
                    say(f"{repeat + 1}/{arguments.repeats} {backbone} {name}: {figures}")
                if beside:
                    # In turn with the others, so that all see the machine in the same state.
                    beside(backbone)
                longest, done = max(longest, time.perf_counter() - began), done + 1

    def compared(self, backbone: str) -> Figures:
        """Give medians, and how many times faster featx is than each of the others."""
        runs = self.runs[backbone]
        middle = {name: medians(runs[name]) for name in sorted(runs, key=lambda name: name != "featx")}
        found: Figures = {"medians": middle}
        for ratio, figure in (("ratio_steady", "steady_per_second"), ("ratio_total", "total_per_second")):
            found[ratio] = {
                name: middle["featx"][figure] / middle[name][figure] for name in middle if name != "featx"
            }
        return found | {"runs": runs}

    def result(self, question: str | None, networks: Mapping[str, Figures]) -> Figures:
        """Put together what is written."""
        arguments = self.arguments
        given = Path(arguments.weights).name if arguments.weights else "random, seed 0"
        return {
            "question": (question or "").split("\n")[0],
            "data": self.what,
            "weights": given,
            **{name: getattr(arguments, name) for name in ("device", "precision", "compile", "cache")},
            "networks": networks,
            "hardware": self.hardware(),
            "seconds": time.perf_counter() - self.started,
            "when": time.strftime("%Y-%m-%d", time.gmtime()),
        }

    def hardware(self) -> Figures:
        """Name what was measured on."""
        facts = environment()
        facts["versions"] |= package_versions(("timm", "img2vec_pytorch", "embetter"))
        facts["load_before"] = self.load
        if "accelerator" in self.facts:
            facts["accelerator"] = self.facts["accelerator"]
            query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
            try:
                asked = subprocess.run(query, capture_output=True, text=True, check=False)
            except FileNotFoundError:
                return facts
            facts["nvidia_smi"] = asked.stdout.strip().splitlines()
        return facts

    def write(self, name: str, found: Figures) -> None:
        """Write the figures to --output, or to a file named after the GPU."""
        output = self.arguments.output
        if not output and "accelerator" in self.facts:
            gpu = re.sub(r"[^a-z0-9]+", "-", self.facts["accelerator"].lower()).strip("-")
            output = HERE / "results" / f"{name}-{gpu}.json"
        if output:
            Path(output).parent.mkdir(parents=True, exist_ok=True)
            Path(output).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
            say(f"written: {output}")

    def _require(self, name: str, backbone: str, rows: Any) -> Figures:
        found = differences(rows, self.expected[name, backbone])
        if not (found["cosine_median"] >= COSINE_MEDIAN and found["cosine_worst"] >= COSINE_WORST):
            raise SystemExit(f"{name} gives other embeddings on {backbone} than it should: {found}")
        return found

    def _spoken(self, script: str, options: Figures, name: str, environ: Mapping[str, str]) -> Figures:
        """Run a script of this folder; gives the JSON on its last line."""
        places = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        done = subprocess.run(
            [sys.executable, str(HERE / script), json.dumps(options)],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": places} | dict(environ),
        )
        if done.returncode:
            raise SystemExit(f"{name} ended with {done.returncode}; its error stands above.")
        spoken: Figures = json.loads(done.stdout.splitlines()[-1])
        return spoken


def differences(rows: Any, expected: Any) -> Figures:
    """Compare rows with those they should be, row by row."""
    import numpy as np

    if rows.shape != expected.shape:
        raise SystemExit(f"There are rows of shape {rows.shape}, expected {expected.shape}.")
    norms = np.linalg.norm(expected, axis=1)
    cosines = (rows * expected).sum(axis=1) / np.linalg.norm(rows, axis=1) / norms
    return {
        "relative_l2_worst": float((np.linalg.norm(rows - expected, axis=1) / norms).max()),
        "cosine_median": float(np.median(cosines)),
        "cosine_worst": float(cosines.min()),
    }


def medians(runs: Sequence[Figures]) -> Figures:
    """Give the median of every figure."""
    numbers = [name for name, value in runs[0].items() if isinstance(value, int | float) and name != "images"]
    return {name: statistics.median(figures[name] for figures in runs) for name in numbers}


def lines_of(middle: Mapping[str, Figures], found: Figures) -> Iterable[str]:
    """Give a line for each contestant."""
    for name, figures in middle.items():
        line = (
            f"  {name:9} {figures['steady_per_second']:8.1f} images/s steady, "
            f"{figures['total_seconds']:7.1f} s in all, {figures['peak_memory_bytes'] / 2**20:6.0f} MiB"
        )
        if name != "featx":
            steady, total = found["ratio_steady"][name], found["ratio_total"][name]
            line += f"; featx {steady:.2f} × steady, {total:.2f} × in all"
        yield line


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
