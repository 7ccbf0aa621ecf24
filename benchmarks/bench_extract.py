"""How much faster is ``featx extract`` than the fifteen lines of torchvision that people write?

Both embed the same JPEGs with the same networks and weights, on the same device. Every run has a fresh
process, the two take turns, and the medians are compared:

* total: wall time of the process, from its start to its end, imports and building the network included;
* steady state: images per second from the first quarter of the images to the end, with everything warm.

Before anything is timed, the embeddings are checked to agree: in fp32 to a relative L2 error of 1e-4 a row,
and in the precision that is timed by their cosine; the first rows of every timed run are checked again.
Between the runs, ``featx bench`` measures what decoder and network can give together.

::

    python benchmarks/bench_extract.py --backbone resnet50 --output benchmarks/results/extract-resnet50.json
    python benchmarks/bench_extract.py --device cuda
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from contest import ROOT, Contest, Figures, Match, lines_of, parser_for, say
from seeding import environment_of

CONTESTANTS = ("featx", "plain")

EVERY_NETWORK = ("resnet50", "resnet18", "mobilenet_v3_small")
"""What ``--device cuda`` measures in one command."""

BENCH_SECONDS = 8


def measure_bound(contest: Contest, backbone: str) -> Figures:
    """Run ``featx bench`` in a process of its own; gives its figures without the hardware."""
    arguments = contest.arguments
    command = [sys.executable, "-m", "featx", "bench"]
    environ = os.environ | environment_of(contest.scratch) | contest.cache(fresh=False)
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    options = {
        "--backbone": backbone,
        "--weights": contest.facts["weights"][backbone],
        "--device": arguments.device,
        "--precision": arguments.precision,
        # What many images would reach, whether or not these repaid it.
        "--compile": "off" if arguments.compile == "off" else "on",
        "--seconds": BENCH_SECONDS,
    }
    command += [str(contest.scratch / "photos"), "--json"]
    command += [f"{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise SystemExit(f"featx bench ended with {done.returncode}: {done.stderr}")
    figures: Figures = json.loads(done.stdout)
    return {name: value for name, value in figures.items() if name not in ("hardware", "source")}


def main() -> None:
    arguments = parser_for(__doc__).parse_args()
    on_gpu = arguments.device.startswith("cuda")
    arguments.backbone = arguments.backbone or (list(EVERY_NETWORK) if on_gpu else ["resnet50"])
    with tempfile.TemporaryDirectory(dir=arguments.work_dir) as place:
        contest = Contest(arguments, Path(place))
        agreement = {name: contest.check(name, {"plain": Match()}) for name in arguments.backbone}
        limits: dict[str, list[Figures]] = {name: [] for name in arguments.backbone}

        def beside(backbone: str) -> None:
            limits[backbone].append(measure_bound(contest, backbone))
            say(f"{backbone} bound: {limits[backbone][-1]['bound_per_second']:.1f}")

        contest.measure(dict.fromkeys(arguments.backbone, CONTESTANTS), beside)
        networks: dict[str, Figures] = {}
        for backbone in filter(contest.runs.get, arguments.backbone):
            found = contest.compared(backbone)
            bound = statistics.median(limit["bound_per_second"] for limit in limits[backbone])
            networks[backbone] = {
                "node": contest.facts["nodes"][backbone],
                "agreement": agreement[backbone],
                **found,
                "bound_per_second": bound,
                "share_of_bound": found["medians"]["featx"]["steady_per_second"] / bound,
                "bench": limits[backbone],
            }
        result = contest.result(__doc__, networks)
        contest.write("extract", result)
    print(f"{result['data']}, {result['weights']} weights, {result['device']}, {result['cache']} cache")
    for backbone, found in networks.items():
        print(backbone)
        print(*lines_of(found["medians"], found), sep="\n")
        print(f"  bound     {found['bound_per_second']:8.1f} images/s, {found['share_of_bound']:.0%} reached")


if __name__ == "__main__":
    main()
