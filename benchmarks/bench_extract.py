"""How much faster is ``featx extract`` than the fifteen lines of torchvision that people write?

Both embed the same JPEGs with the same network and weights, on the same device. Every run has a fresh
process, the two take turns, and the medians are compared:

* total: wall time of the process, from its start to its end, imports and building the network included;
* steady state: images per second from the first quarter of the images to the end, with everything warm.

Before anything is timed, the embeddings are checked to agree: in fp32 to a relative L2 error of 1e-4 a row,
and in the precision that is timed by their cosine.

::

    python benchmarks/bench_extract.py --backbone resnet50 --output benchmarks/results/extract-resnet50.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# After the path, so that a checkout works that is not installed.
from featx.environment import environment, peak_memory_bytes  # noqa: E402
from featx.images.synthetic import synthetic_photos  # noqa: E402

RUN_IN = 0.25
"""Share of the images before the steady state is measured."""

PLAIN_BATCH = 32
"""Images per batch of the plain loop, as people have it."""

FEWEST = 2 * PLAIN_BATCH
"""Below this there is no steady state."""

CHECKED = 32
"""Images on which the embeddings are compared."""

EXACT = 1e-4
"""Relative L2 error that is allowed for each row in fp32."""

COSINE_MEDIAN, COSINE_WORST = 0.998, 0.995
"""What the rows of the timed precision must reach against the plain loop in fp32."""


def run_plain(folder: Path, arguments: argparse.Namespace, marks: list[tuple[int, float]]) -> Any:
    """Embed with Pillow, a DataLoader, and torchvision's feature extractor in fp32."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.models import get_model, get_model_weights
    from torchvision.models.feature_extraction import create_feature_extractor

    class Photos(Dataset[torch.Tensor]):
        def __init__(self) -> None:
            self.paths = sorted(folder.glob("*.jpg"))
            self.transform = next(iter(get_model_weights(arguments.backbone))).transforms()

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            image: torch.Tensor = self.transform(Image.open(self.paths[index]).convert("RGB"))
            return image

    model = get_model(arguments.backbone)
    model.load_state_dict(torch.load(arguments.weights, weights_only=True))
    extractor = create_feature_extractor(model.eval(), [arguments.node]).to(arguments.device)
    loader = DataLoader(Photos(), batch_size=PLAIN_BATCH, num_workers=os.cpu_count() or 1)
    rows = []
    with torch.inference_mode():
        for batch in loader:
            features = extractor(batch.to(arguments.device))[arguments.node]
            rows.append((features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)).cpu())
            marks.append((sum(map(len, rows)), time.perf_counter()))
    return torch.cat(rows).numpy()


def run_featx(folder: Path, arguments: argparse.Namespace, marks: list[tuple[int, float]]) -> Any:
    """Embed with ``featx.extract``, store written and closed."""
    import featx

    options: dict[str, Any] = {"precision": arguments.precision}
    if arguments.precision == "fp32":
        options["store_dtype"] = "float32"
    with tempfile.TemporaryDirectory() as target:
        store = featx.extract(
            folder,
            Path(target) / "x.h5",
            backbone=arguments.backbone,
            weights=arguments.weights,
            device=arguments.device,
            on_progress=lambda step: marks.append((step.done, time.perf_counter())),
            **options,
        )
        run = store.summary
        if run is None or run.computed != len(store) or run.skipped:
            raise SystemExit(f"featx did not compute every image: {run}")
        rows = store.X(store.layers[0].name).astype("float32")
        store.close()
    return rows


CONTESTANTS = {"featx": run_featx, "plain": run_plain}


def child(arguments: argparse.Namespace) -> None:
    """Run one contestant in this process and print its figures."""
    import numpy as np

    marks: list[tuple[int, float]] = []
    rows = CONTESTANTS[arguments.run](Path(arguments.data), arguments, marks)
    ended = time.perf_counter()
    if arguments.rows:
        np.save(arguments.rows, rows)
    begin = next(mark for mark in marks if mark[0] >= RUN_IN * len(rows))
    figures: dict[str, float] = {"images": len(rows), "peak_memory_bytes": peak_memory_bytes()}
    if begin[0] < len(rows):
        figures["steady_per_second"] = (len(rows) - begin[0]) / (ended - begin[1])
    print(json.dumps(figures))


def run_alone(name: str, folder: Path, arguments: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    """Run one contestant in a process of its own."""
    options = {
        "run": name,
        "data": folder,
        "backbone": arguments.backbone,
        "weights": arguments.weights,
        "node": arguments.node,
        "device": arguments.device,
        "precision": arguments.precision,
    } | changes
    command = [sys.executable, str(Path(__file__).resolve())]
    command += [f"--{option}={value}" for option, value in options.items()]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}; its error stands above.")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures | {"total_seconds": seconds, "total_per_second": figures["images"] / seconds}


def measure_bound(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run ``featx bench`` in a process of its own; gives its figures without the hardware."""
    command = [sys.executable, "-m", "featx", "bench", str(folder), "--json", "--seconds=8"]
    options = ("backbone", "weights", "precision", "device")
    command += [f"--{option}={getattr(arguments, option)}" for option in options]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise SystemExit(f"featx bench ended with {done.returncode}: {done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return {name: value for name, value in figures.items() if name not in ("hardware", "source")}


def choose_images(data: str | None, count: int, folder: Path) -> str:
    """Put ``count`` JPEGs, no two alike, into a flat folder; gives what they are.

    Twins would be computed once by featx and twice by the plain loop.
    """
    folder.mkdir()
    if data is None:
        for start in range(0, count, 500):
            for place, photo in enumerate(synthetic_photos(min(500, count - start), seed=start), start):
                (folder / f"{place:06}.jpg").write_bytes(photo)
        return "synthetic JPEGs of 500×375"
    files = sorted(path for path in Path(data).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    different = list({hashlib.sha256(path.read_bytes()).digest(): path for path in files}.values())
    if len(different) < count:
        raise SystemExit(
            f"{data} holds {len(different)} different JPEGs, expected {count}; give --images, or no --data."
        )
    for place in range(count):
        # At equal distances, so that every class takes part.
        shutil.copyfile(different[place * len(different) // count], folder / f"{place:06}.jpg")
    return f"JPEGs of {Path(data).name}"


def seeded_weights(backbone: str, path: Path) -> str:
    """Write random weights for both contestants: the speed does not depend on the values."""
    import torch
    from torchvision.models import get_model

    torch.manual_seed(0)
    torch.save(get_model(backbone).state_dict(), path)
    return str(path)


def check(folder: Path, scratch: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Compare the embeddings of both contestants; ends the program if they do not agree."""
    import numpy as np

    def rows(name: str, precision: str) -> Any:
        file = scratch / f"{name}-{precision}.npy"
        run_alone(name, folder, arguments, precision=precision, rows=file)
        return np.load(file).astype(np.float64)

    expected, exact, timed = rows("plain", "fp32"), rows("featx", "fp32"), rows("featx", arguments.precision)
    norms = np.linalg.norm(expected, axis=1)
    error = float((np.linalg.norm(exact - expected, axis=1) / norms).max())
    cosines = (timed * expected).sum(axis=1) / np.linalg.norm(timed, axis=1) / norms
    agreement = {
        "fp32_relative_l2_worst": error,
        "cosine_median": float(np.median(cosines)),
        "cosine_worst": float(cosines.min()),
    }
    if not (error <= EXACT and np.median(cosines) >= COSINE_MEDIAN and cosines.min() >= COSINE_WORST):
        raise SystemExit(f"The embeddings do not agree, so that nothing was timed: {agreement}")
    return agreement


def hardware(device: str) -> dict[str, Any]:
    """Name what was measured on."""
    facts = environment()
    if device.startswith("cuda"):
        import torch

        facts["accelerator"] = torch.cuda.get_device_name(torch.device(device))
    return facts


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: statistics.median(figures[name] for figures in runs) for name in runs[0] if name != "images"
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", help="folder of JPEGs; rendered ones if left out")
    parser.add_argument("--backbone", default="resnet50", help="a network of torchvision")
    parser.add_argument("--weights", help="a .pth file; random ones if left out")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", help="of featx; the plain loop computes in fp32")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", help="write the figures to this JSON file")
    for internal in ("--run", "--node", "--rows"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        child(arguments)
        return
    if arguments.images < FEWEST or arguments.repeats < 1:
        parser.error(f"expected --images of at least {FEWEST} and --repeats of at least 1")

    from featx.backbones.network import load_network

    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        what = choose_images(arguments.data, arguments.images, scratch / "photos")
        few = scratch / "few"
        few.mkdir()
        for photo in sorted((scratch / "photos").iterdir())[:CHECKED]:
            (few / photo.name).symlink_to(photo)
        given = arguments.weights
        arguments.weights = given or seeded_weights(arguments.backbone, scratch / "random.pth")
        arguments.node = load_network(arguments.backbone, weights="none", device="cpu").layers[0].node
        agreement = check(few, scratch, arguments)
        print(f"the embeddings agree: {agreement}", file=sys.stderr)

        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
        limits: list[dict[str, Any]] = []
        for repeat in range(arguments.repeats):
            # The one that comes first changes: a machine grows warm, its caches too.
            for name in sorted(CONTESTANTS, reverse=bool(repeat % 2)):
                runs[name].append(run_alone(name, scratch / "photos", arguments))
                print(f"{repeat + 1}/{arguments.repeats} {name}: {runs[name][-1]}", file=sys.stderr)
            # In turn with the others, so that all see the machine in the same state.
            limits.append(measure_bound(scratch / "photos", arguments))
            print(
                f"{repeat + 1}/{arguments.repeats} bound: {limits[-1]['bound_per_second']}", file=sys.stderr
            )

    bound = statistics.median(limit["bound_per_second"] for limit in limits)
    middle = {name: medians(figures) for name, figures in runs.items()}
    found = {
        "question": (__doc__ or "").split("\n")[0],
        "data": f"{arguments.images} {what}",
        "backbone": arguments.backbone,
        "weights": Path(given).name if given else "random, seed 0",
        "node": arguments.node,
        "device": arguments.device,
        "agreement": agreement,
        "medians": middle,
        "ratio_total": middle["featx"]["total_per_second"] / middle["plain"]["total_per_second"],
        "ratio_steady": middle["featx"]["steady_per_second"] / middle["plain"]["steady_per_second"],
        "bound_per_second": bound,
        "share_of_bound": middle["featx"]["steady_per_second"] / bound,
        "runs": runs,
        "bench": limits,
        "hardware": hardware(arguments.device),
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    print(f"{found['data']}, {arguments.backbone} ({found['weights']}), {arguments.device}")
    for name, figures in middle.items():
        print(
            f"{name:6} {figures['steady_per_second']:8.1f} images/s steady, "
            f"{figures['total_seconds']:7.1f} s in all, {figures['peak_memory_bytes'] / 2**20:6.0f} MiB"
        )
    print(f"ratio  {found['ratio_steady']:8.2f} × steady, {found['ratio_total']:.2f} × in all")
    print(f"bound  {bound:8.1f} images/s, {found['share_of_bound']:.0%} of it in steady state")
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
