"""How much faster is ``featx extract`` than what people use?

The plain DataLoader loop, `img2vec_pytorch`, `embetter`, `timm` and featx embed the same JPEGs with the same
weights, each as its own documentation has it. Every run has a fresh process, all take turns, and the
medians are compared, of the total time (imports included) and of the steady state (images per second from
the first quarter of the images to the end). A cell that stays empty has a reason.

Before anything is timed, the embeddings are checked to agree with those of featx in fp32, with the
preprocessing of the peer; the first rows of every timed run are checked again.

::

    pip install -r benchmarks/requirements.txt
    python benchmarks/bench_peers.py --output benchmarks/results/peers.json
    python benchmarks/bench_peers.py --backbone resnet50 --images 400 --peer plain --peer timm
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from contest import Contest, Figures, Match, parser_for
from contestants import IMG2VEC_NAMES, TIMM_NAMES

NETWORKS = ("resnet50", "resnet18", "mobilenet_v3_small")

PEERS = {"plain": "torch", "timm": "timm", "img2vec": "img2vec_pytorch", "embetter": "embetter"}
"""Whom featx is compared with, and what must be installed."""

TIMM_MOBILENET: dict[str, Any] = {
    "preprocess": {
        "resize": "crop",
        "resize_size": 256,
        "image_size": 224,
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
}
"""What the record of ``mobilenetv3_small_100.lamb_in1k`` in timm means in featx."""

IMG2VEC_LIMIT = 0.02
"""Relative L2 error allowed where one side rounds the resized pixels to whole numbers."""

IN_EVAL_MODE = (
    "compared after model.eval(), which embetter never calls: as it is timed, BatchNorm takes its statistics "
    "from the one image"
)


def match_for(peer: str, backbone: str) -> Match:
    """Say how the embeddings of a peer must agree with those of featx."""
    if peer == "plain":
        return Match()
    if peer == "img2vec":
        squash = {"resize": "squash", "image_size": 224}
        return Match(squash, IMG2VEC_LIMIT, note="img2vec squashes to 224×224, in floats where Pillow rounds")
    featx = TIMM_MOBILENET if backbone == "mobilenet_v3_small" else {}
    note = "bicubic, as timm's record of this network has it" if featx else ""
    if peer == "embetter":
        note = "; ".join(filter(None, [note, IN_EVAL_MODE]))
        return Match(featx, options={"in_eval_mode": True}, note=note)
    return Match(featx, note=note)


def reason_against(peer: str, backbone: str, device: str) -> str | None:
    """Say why a peer cannot embed with a network, or None if it can."""
    if find_spec(PEERS[peer]) is None:
        return f"{PEERS[peer]} is not installed: pip install -r benchmarks/requirements.txt"
    if peer == "img2vec" and backbone not in IMG2VEC_NAMES:
        return "img2vec_pytorch does not offer this network"
    if peer in ("timm", "embetter") and backbone not in TIMM_NAMES:
        return "no network of timm is known here that takes these weights"
    if peer == "embetter" and device != "cpu":
        return "embetter computes on the CPU only"
    return None


def table(networks: dict[str, Figures], peers: list[str]) -> list[str]:
    """Draw the table as Markdown, one line for each network and contestant."""
    lines = [
        "| network | | images/s, steady | seconds in all | featx is faster, steady | in all | MiB |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for backbone, found in networks.items():
        for name in ["featx", *peers]:
            figures = found["medians"].get(name)
            if figures is None:
                lines.append(f"| {backbone} | {name} | {found['left_out'][name]} | | | | |")
                continue
            ratios = ("", "")
            if name != "featx":
                ratios = (f"{found['ratio_steady'][name]:.1f} ×", f"{found['ratio_total'][name]:.1f} ×")
            lines.append(
                f"| {backbone} | {name} | {figures['steady_per_second']:.1f} | "
                f"{figures['total_seconds']:.1f} | {ratios[0]} | {ratios[1]} | "
                f"{figures['peak_memory_bytes'] / 2**20:.0f} |"
            )
    return lines


def arguments_given() -> argparse.Namespace:
    parser = parser_for(__doc__)
    parser.add_argument("--peer", action="append", choices=tuple(PEERS), help="only these (repeatable)")
    arguments = parser.parse_args()
    arguments.backbone = arguments.backbone or list(NETWORKS)
    arguments.peer = arguments.peer or list(PEERS)
    return arguments


def main() -> None:
    arguments = arguments_given()
    with tempfile.TemporaryDirectory(dir=arguments.work_dir) as place:
        contest = Contest(arguments, Path(place))
        left_out: dict[str, dict[str, str]] = {}
        names: dict[str, list[str]] = {}
        agreement: dict[str, Figures] = {}
        for backbone in arguments.backbone:
            reasons = {peer: reason_against(peer, backbone, arguments.device) for peer in arguments.peer}
            left_out[backbone] = {peer: reason for peer, reason in reasons.items() if reason}
            present = [peer for peer in arguments.peer if peer not in left_out[backbone]]
            names[backbone] = ["featx", *present]
            matches = {peer: match_for(peer, backbone) for peer in present}
            agreement[backbone] = contest.check(backbone, matches)
        contest.measure(names)
        networks: dict[str, Figures] = {
            backbone: {
                "node": contest.facts["nodes"][backbone],
                "left_out": left_out[backbone],
                "agreement": agreement[backbone],
                **contest.compared(backbone),
            }
            for backbone in filter(contest.runs.get, arguments.backbone)
        }
        result = contest.result(__doc__, networks)
        contest.write("peers", result)
    print(f"{result['data']}, {result['weights']} weights, {result['device']}, {result['cache']} cache\n")
    print(*table(networks, arguments.peer), sep="\n")


if __name__ == "__main__":
    main()
