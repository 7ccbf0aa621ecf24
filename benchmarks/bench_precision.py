"""Do embeddings in bf16, eager and compiled, say the same as those in fp32?

The same photos go through the same network in fp32 and in bf16, as it is and compiled. Compared are the rows
(cosine with eager fp32, of the median and the worst row) and what becomes of them: the test accuracy of three
heads on the same split, with its 95 % interval.

::

    python benchmarks/bench_precision.py --data photos/ --backbone mobilenet_v2 --weights mobilenet_v2.pth
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# After the path, so that a checkout works that is not installed.
import numpy as np  # noqa: E402

import featx  # noqa: E402
from featx.environment import environment  # noqa: E402

WAYS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32", "compile": "off"},
    "bf16": {"precision": "bf16", "compile": "off"},
    "bf16, compiled": {"precision": "bf16", "compile": "on"},
    "fp32, compiled": {"precision": "fp32", "compile": "on"},
}

HEADS = ("logreg", "linear-svm", "rbf-svm")


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for place, (way, options) in enumerate(WAYS.items()):
        store = featx.extract(
            arguments.data,
            folder / f"{place}.h5",
            backbone=arguments.backbone,
            weights=arguments.weights,
            store_dtype="float32",
            device=arguments.device,
            **options,
        )
        if store.summary is not None and store.summary.notes:
            print(*store.summary.notes, sep="\n", file=sys.stderr)
        rows[way] = np.array(store.X(store.layers[0].name), np.float64)
        results = featx.fit(folder / f"{place}.h5", heads=HEADS, seed=arguments.seed, learning_curve=False)
        accuracies = {row.head: row.test["accuracy"] for row in results.rows}
        norms = np.linalg.norm(rows[way], axis=1), np.linalg.norm(rows["fp32"], axis=1)
        cosines = (rows[way] * rows["fp32"]).sum(axis=1) / norms[0] / norms[1]
        distance = np.linalg.norm(rows[way] - rows["fp32"], axis=1) / norms[1]
        found[way] = {
            "cosine_median": float(np.median(cosines)),
            "cosine_worst": float(cosines.min()),
            "relative_l2_worst": float(distance.max()),
            "accuracy": {
                head: {"value": score.value, "low": score.low, "high": score.high}
                for head, score in accuracies.items()
            },
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True, help="a folder of class folders")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True, help="a file, or default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="add the figures to this JSON file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = compare(arguments, Path(place))
    name = f"{Path(arguments.data).name}, {arguments.backbone} ({Path(arguments.weights).name})"
    print(name)
    for way, figures in found.items():
        scores = ", ".join(f"{head} {score['value']:.3f}" for head, score in figures["accuracy"].items())
        print(
            f"  {way:15} cosine {figures['cosine_median']:.6f} median, {figures['cosine_worst']:.6f} worst; "
            f"relative L2 {figures['relative_l2_worst']:.1e} worst; {scores}"
        )
    if arguments.output:
        path = Path(arguments.output)
        whole = json.loads(path.read_text()) if path.exists() else {"runs": {}}
        whole["question"] = (__doc__ or "").split("\n")[0]
        whole["runs"][name] = found
        whole["hardware"] = environment()
        whole["when"] = time.strftime("%Y-%m-%d", time.gmtime())
        path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
