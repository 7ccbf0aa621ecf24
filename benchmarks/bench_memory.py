"""Does the memory of ``featx extract`` stay flat in the number of images?

One network embeds N images and 10 × N, each run in a fresh process, in turn; the medians of the peak
resident size are compared. What grows may be an index of at most 300 bytes an image.

::

    python benchmarks/bench_memory.py --output benchmarks/results/memory.json
    python benchmarks/bench_memory.py --backbone resnet50 --images 1000 --work-dir /mnt/other-disk
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from contest import Contest, Figures, medians, parser_for, say
from photos import put_first

TIMES = 10

BYTES_AN_IMAGE = 300
"""What the index may take for each image."""


def main() -> None:
    arguments = parser_for(__doc__).parse_args()
    arguments.backbone = arguments.backbone or ["mobilenet_v3_small"]
    few = arguments.images or 2000
    arguments.images = TIMES * few
    counts = (few, TIMES * few)
    with tempfile.TemporaryDirectory(dir=arguments.work_dir) as place:
        contest = Contest(arguments, Path(place))
        folders = {
            few: put_first(contest.scratch / "photos", few, contest.scratch / "small"),
            counts[1]: None,
        }
        networks: dict[str, Figures] = {}
        for backbone in arguments.backbone:
            agreement = contest.check(backbone, {})
            runs: dict[str, list[Figures]] = {str(count): [] for count in counts}
            for repeat in range(arguments.repeats):
                for count in counts if repeat % 2 else counts[::-1]:
                    # The same setting for both: what is compiled takes memory of its own.
                    figures, _ = contest.run("featx", backbone, folders[count])
                    runs[str(count)].append(figures)
                    say(f"{repeat + 1}/{arguments.repeats} {backbone} {count} images: {figures}")
            middle = {count: medians(figures) for count, figures in runs.items()}
            small, large = (middle[str(count)]["peak_memory_bytes"] for count in counts)
            networks[backbone] = {
                "agreement": agreement,
                "medians": middle,
                "growth_bytes_an_image": (large - small) / (counts[1] - counts[0]),
                "allowed_bytes_an_image": BYTES_AN_IMAGE,
                "runs": runs,
            }
        result = contest.result(__doc__, networks)
        contest.write("memory", result)
    print(f"{result['data']}, {result['weights']} weights, {result['device']}")
    for backbone, found in networks.items():
        sizes = [found["medians"][str(count)]["peak_memory_bytes"] / 2**20 for count in counts]
        growth = found["growth_bytes_an_image"]
        print(
            f"{backbone}: {sizes[0]:.0f} MiB for {counts[0]} images, {sizes[1]:.0f} MiB for {counts[1]}: "
            f"{growth:.0f} bytes an image ({'flat' if growth <= BYTES_AN_IMAGE else 'not flat'}; "
            f"{BYTES_AN_IMAGE} are allowed)"
        )


if __name__ == "__main__":
    main()
