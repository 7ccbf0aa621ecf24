"""How fast are images decoded, and what does ``--fast-decode`` change?

Every step from a file to the network's input is timed by itself, in milliseconds of one core per image,
beside other JPEG decoders where they are installed: on rendered photos of 500×375 and of 3000×2000 pixels,
and on the large ones of ``--data``, if there are. The steps take turns, and the medians are given. Before,
what the other decoders give is compared with Pillow's pixels. It is the processor's time that counts, not the
clock's: other programs then matter less.

With ``--data``, ``--backbone`` and ``--weights`` (the last two may be repeated together): how near the
embeddings of photos that were scaled by their decoder come to those of the same photos unscaled. Photos that
are too small for it are enlarged, which the result says; ``margins`` has the largest of them at sizes where
the scaled photo is just so many times larger than what it is resized to.

::

    python benchmarks/bench_decode.py --output benchmarks/results/decode.json
    python benchmarks/bench_decode.py --data photos/ --backbone mobilenet_v2 --weights mobilenet_v2.pth
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# After the path, so that a checkout works that is not installed.
from featx.environment import environment  # noqa: E402
from featx.images import scaling  # noqa: E402
from featx.images.decoding import FAST_POLICY, POLICY, decode, decode_for  # noqa: E402
from featx.images.geometry import prepare  # noqa: E402
from featx.images.loading import digest_of, load  # noqa: E402
from featx.images.preparing import difference_hash  # noqa: E402
from featx.images.sources import list_images, open_source  # noqa: E402
from featx.images.synthetic import synthetic_photos  # noqa: E402
from featx.records import Preprocess  # noqa: E402

IMAGENET = Preprocess("crop", 256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What most networks of torchvision take."""

SIZES = {(500, 375): 48, (3000, 2000): 6}
"""Width and height of the rendered photos, and how many of them."""

ENLARGED = 3000
"""Longer side in pixels of photos that are enlarged."""

MARGINS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5)
"""How many times larger than the resized photo the scaled one is."""

BATCH = 8
"""Images per forward pass."""

Decoder = Callable[[bytes], Any]


def pillow() -> Decoder:
    return decode


def simplejpeg() -> Decoder:
    import simplejpeg

    return lambda data: simplejpeg.decode_jpeg(data, colorspace="RGB")


def simplejpeg_as_image() -> Decoder:
    """Copy into what Pillow can resize."""
    decoder = simplejpeg()
    return lambda data: Image.fromarray(decoder(data))


def opencv() -> Decoder:
    import cv2

    cv2.setNumThreads(1)
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def torchcodec() -> Decoder:
    import torch
    from torchcodec.decoders import ImageReadMode, decode_jpeg

    return lambda data: decode_jpeg(
        torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB
    )


def torchvision() -> Decoder:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    return lambda data: decode_jpeg(
        torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB
    )


DECODERS: dict[str, Callable[[], Decoder]] = {
    "Pillow": pillow,
    "simplejpeg": simplejpeg,
    "simplejpeg, as a PIL image": simplejpeg_as_image,
    "OpenCV": opencv,
    "torchcodec": torchcodec,
    "torchvision.io": torchvision,
}


def find_decoders(sample: bytes) -> tuple[dict[str, Decoder], list[str]]:
    """Give the decoders that work here, and a line for each that does not."""
    found: dict[str, Decoder] = {}
    missing: list[str] = []
    for name, make in DECODERS.items():
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)
                decoder = make()
                decoder(sample)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            missing.append(f"{name} is left out: {type(error).__name__}: {str(error).splitlines()[0]}")
        else:
            found[name] = decoder
    return found, missing


def pixels_of(result: Any) -> np.ndarray:
    """Give the pixels as (H, W, 3), whatever a decoder gave."""
    array = np.asarray(result)
    return array.transpose(1, 2, 0) if array.shape[0] == 3 else array


def largest_difference(decoder: Decoder, photos: Sequence[bytes]) -> int:
    """Give the largest difference from Pillow's pixels, in levels of 255."""
    return max(
        int(np.abs(pixels_of(decoder(data)).astype(int) - np.asarray(decode(data), int)).max())
        for data in photos[:4]
    )


def time_steps(what: str, photos: Sequence[bytes], repeats: int) -> dict[str, Any]:
    """Time every step on some photos; milliseconds of one core per image."""
    decoders, missing = find_decoders(photos[0])
    print("\n".join(missing), file=sys.stderr)
    differences = {name: largest_difference(decoder, photos) for name, decoder in decoders.items()}
    full = [decode(data) for data in photos]
    scaled = [decode_for(data, IMAGENET, FAST_POLICY)[:2] for data in photos]
    with tempfile.TemporaryDirectory() as folder:
        for place, data in enumerate(photos):
            (Path(folder) / f"{place:03}.jpg").write_bytes(data)
        source = open_source(folder)
        records = list_images(source)

        def run_load(policy: str) -> None:
            for item in load(source, records, IMAGENET, workers=1, decoding=policy):
                if item.pixels is None:
                    raise SystemExit(f"{records[item.index].name}: {item.reason}")

        def over(step: Callable[[Any], object], items: Sequence[Any]) -> Callable[[], None]:
            def run() -> None:
                for item in items:
                    step(item)

            return run

        steps: dict[str, Callable[[], None]] = {
            "read and hash": over(lambda record: digest_of(source.read(record)), records),
            **{f"decode, {name}": over(decoder, photos) for name, decoder in decoders.items()},
            "decode, --fast-decode": over(lambda data: decode_for(data, IMAGENET, FAST_POLICY), photos),
            "resize": over(lambda image: prepare(image, IMAGENET), full),
            "resize, --fast-decode": over(lambda pair: prepare(pair[0], IMAGENET, pair[1]), scaled),
            "difference hash": over(difference_hash, full),
            "difference hash, --fast-decode": over(lambda pair: difference_hash(*pair), scaled),
            "all of it": lambda: run_load(POLICY),
            "all of it, --fast-decode": lambda: run_load(FAST_POLICY),
        }
        runs = take_turns(steps, repeats, len(photos))
    middle = {name: statistics.median(values) for name, values in runs.items()}
    return {
        "photos": f"{len(photos)} {what}",
        "kilobytes": round(statistics.mean(map(len, photos)) / 1000),
        "sizes": sorted({f"{image.width}×{image.height}" for image in full}),
        "scaled_to": sorted({f"{image.width}×{image.height}" for image, _ in scaled}),
        "largest_difference_from_pillow": differences,
        "milliseconds": middle,
        "fast_decode_ratio": middle["all of it"] / middle["all of it, --fast-decode"],
        "runs": runs,
        "left_out": missing,
    }


def read_jpegs(data: str) -> list[bytes]:
    files = [path for path in sorted(Path(data).rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
    return [path.read_bytes() for path in files]


def scale_of(data: bytes) -> int:
    """Give by what the decoder divides width and height."""
    with Image.open(io.BytesIO(data)) as image:
        return scaling.choose_scale(*image.size, IMAGENET)


def take_turns(steps: dict[str, Callable[[], None]], repeats: int, count: int) -> dict[str, list[float]]:
    """Run all steps again and again, another one first each time."""
    runs: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for name in names:
        steps[name]()
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            started = time.process_time()
            steps[name]()
            runs[name].append(1000 * (time.process_time() - started) / count)
    return runs


def measure_effect(data: str, backbone: str, weights: str, images: int) -> dict[str, Any]:
    """Compare embeddings of photos scaled by their decoder with those of the same photos unscaled."""
    from featx.backbones.network import load_network

    network = load_network(backbone, weights=weights, device="cpu", precision="fp32")
    preprocess = network.preprocess

    def embed(photos: Sequence[bytes], policy: str) -> tuple[np.ndarray, list[int], list[tuple[int, int]]]:
        rows, hashes, sizes = [], [], []
        for start in range(0, len(photos), BATCH):
            pixels = []
            for photo in photos[start : start + BATCH]:
                image, box, *_ = decode_for(photo, preprocess, policy)
                pixels.append(prepare(image, preprocess, box))
                hashes.append(difference_hash(image, box))
                sizes.append(image.size)
            (features,) = network.embed(np.stack(pixels)).values()
            rows.append(features.astype(np.float64))
        return np.concatenate(rows), hashes, sizes

    def compare(photos: Sequence[bytes]) -> dict[str, Any]:
        exact, exact_hashes, before = embed(photos, POLICY)
        fast, fast_hashes, after = embed(photos, FAST_POLICY)
        if any(was == now for was, now in zip(before, after, strict=True)):
            raise SystemExit("a photo that is to be compared was not scaled")
        cosines = (exact * fast).sum(axis=1)
        cosines /= np.linalg.norm(exact, axis=1) * np.linalg.norm(fast, axis=1)
        bits = [(a ^ b).bit_count() for a, b in zip(exact_hashes, fast_hashes, strict=True)]
        scales = [round(was[0] / now[0]) for was, now in zip(before, after, strict=True)]
        return {
            "photos": len(photos),
            "scales": {str(scale): scales.count(scale) for scale in sorted(set(scales))},
            "cosine_median": float(np.median(cosines)),
            "cosine_worst": float(cosines.min()),
            "difference_hash_bits_mean": statistics.mean(bits),
            "difference_hash_bits_most": max(bits),
        }

    photos = read_jpegs(data)
    pictures = {photo: decode(photo) for photo in photos}
    photos.sort(key=lambda photo: -min(pictures[photo].size))
    large = [photo for photo in photos if scaling.choose_scale(*pictures[photo].size, preprocess) > 1]
    small = [pictures[photo] for photo in photos if photo not in set(large)][:images]
    found: dict[str, Any] = {
        "backbone": backbone,
        "weights": Path(weights).name,
        "data": Path(data).name,
        "precision": "fp32",
        "margin": scaling.MARGIN,
    }
    if large:
        found["as_they_are"] = compare(large)
    found[f"enlarged_to_{ENLARGED}"] = compare([resized(picture, ENLARGED, max) for picture in small])
    found["margins"] = {}
    few = [pictures[photo] for photo in photos[: max(8, images // 4)]]
    for margin, scale in itertools.product(MARGINS, (2, 4)):
        side = math.ceil(preprocess.resize_size * margin * scale)
        with mock.patch.object(scaling, "MARGIN", margin):
            result = compare([resized(picture, side, min) for picture in few])
        found["margins"][f"{margin:g} at scale {scale}"] = result
    return found


def resized(picture: Image.Image, side: int, which: Callable[[tuple[int, int]], int]) -> bytes:
    """Encode a photo whose longer or shorter side is ``side`` pixels long."""
    factor = side / which(picture.size)
    size = (round(picture.width * factor), round(picture.height * factor))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def versions() -> dict[str, str]:
    """Give the versions of the decoders that are installed besides featx's own."""
    found = {}
    for name in ("simplejpeg", "opencv-python-headless", "torchcodec"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def show(timed: dict[str, Any]) -> None:
    print(f"{timed['photos']}, {timed['kilobytes']} KB; --fast-decode: {timed['scaled_to']}")
    for name, milliseconds in timed["milliseconds"].items():
        differs = timed["largest_difference_from_pillow"].get(name.removeprefix("decode, "))
        note = f"  at most {differs} of 255 from Pillow" if differs else ""
        print(f"  {name:36} {milliseconds:8.3f} ms{note}")
    print(f"  --fast-decode is {timed['fast_decode_ratio']:.2f} × as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--data", help="folder of JPEGs whose embeddings are compared")
    parser.add_argument("--backbone", action="append", default=[], help="a network; may be repeated")
    parser.add_argument("--weights", action="append", default=[], help="its .pth file, in the same order")
    parser.add_argument("--images", type=int, default=60, help="photos that are enlarged and compared")
    parser.add_argument("--output", help="write the figures to this JSON file")
    arguments = parser.parse_args()
    if len(arguments.backbone) != len(arguments.weights):
        parser.error("expected as many --weights as --backbone")
    if bool(arguments.data) != bool(arguments.backbone):
        parser.error("--data, --backbone and --weights belong together")
    load_before = os.getloadavg()[0]
    sets = {
        "rendered JPEGs of {}×{}".format(*size): synthetic_photos(n, size=size) for size, n in SIZES.items()
    }
    if arguments.data:
        large = [data for data in read_jpegs(arguments.data) if scale_of(data) > 1]
        sets |= {f"large JPEGs of {Path(arguments.data).name}": large} if large else {}
    timed = [time_steps(what, photos, arguments.repeats) for what, photos in sets.items()]
    for figures in timed:
        show(figures)
    effects = []
    for backbone, weights in zip(arguments.backbone, arguments.weights, strict=True):
        effects.append(measure_effect(arguments.data, backbone, weights, arguments.images))
        print(json.dumps(effects[-1], indent=1, ensure_ascii=False))
    found = {
        "question": (__doc__ or "").split("\n")[0],
        "timed": timed,
        "effect": effects,
        "hardware": environment() | {"load_average_before": load_before, "decoders": versions()},
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
