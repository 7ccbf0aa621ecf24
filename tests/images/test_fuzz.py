"""Mutated images end as a picture or as a reason, whatever was done to them."""

import time
from functools import cache

import numpy as np
import pytest
from imagefiles import HAS_AVIF, chunk, encode, exif, png_chunks, tiff
from PIL import Image, ImageCms

from featx.images import isolation
from featx.images.decoding import FAST_POLICY, POLICY
from featx.images.loading import Loader, load
from featx.records import ImageRecord, Preprocess

CROP = Preprocess("crop", 40, 32, "bilinear", (0, 0, 0), (1, 1, 1))
LONGEST = 5.0
MOST_MEMORY = 10**9


@cache
def seeds():
    """A small file of each kind."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8)).resize((41, 37))
    large = picture.resize((600, 590))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    def several():
        return {"save_all": True, "append_images": [picture.rotate(90), picture.rotate(180)]}

    sheer = picture.convert("RGBA")
    sheer.putalpha(picture.convert("L"))
    short = Image.fromarray(rng.integers(0, 65_536, (9, 11), np.uint16))
    floats = Image.fromarray(rng.normal(size=(9, 11)).astype(np.float32))
    files = [
        encode(picture, "JPEG", exif=exif(6), icc_profile=profile),
        encode(large, "JPEG", progressive=True, quality=30),
        encode(picture.convert("L"), "JPEG"),
        encode(picture.convert("CMYK"), "JPEG"),
        encode(picture, "MPO", **several()),
        encode(picture, "PNG", exif=exif(3), icc_profile=profile),
        encode(sheer, "PNG"),
        encode(picture.quantize(7), "PNG", transparency=1),
        encode(short, "PNG"),
        encode(picture.convert("1"), "PNG"),
        encode(picture, "PNG", **several()),
        encode(picture.quantize(7), "GIF", transparency=1),
        encode(picture, "GIF", **several()),
        encode(picture, "WEBP"),
        encode(sheer, "WEBP", lossless=True, exif=exif(5)),
        encode(picture, "WEBP", **several()),
        encode(picture, "BMP"),
        encode(picture.quantize(7), "BMP"),
        *(encode(picture, "TIFF", compression=f"tiff_{name}") for name in ("lzw", "adobe_deflate", "jpeg")),
        encode(picture, "TIFF", **several()),
        encode(picture.convert("1"), "TIFF", compression="group4"),
        encode(picture.convert("LAB"), "TIFF"),
        encode(picture.quantize(7), "TIFF", compression="packbits"),
        encode(short, "TIFF"),
        encode(floats, "TIFF", compression="tiff_lzw"),
        tiff((4, 2), [12], bytes(range(12))),
        tiff((2, 2), [16] * 4, bytes(range(32)), photometric=2, big=True, tags={338: [1]}),
    ]
    if HAS_AVIF:
        files += [encode(picture, "AVIF"), encode(sheer, "AVIF"), encode(picture, "AVIF", **several())]
    return files


def mended(data):
    """The same PNG with the checksums of what it holds, so that more of it is looked at."""
    return data[:8] + b"".join(chunk(kind, body) for kind, body in png_chunks(data))


def mutate(rng, data):
    """Flip bytes, cut the end off, put bytes in, swap two pieces; one to four of these."""
    for _ in range(rng.integers(1, 5)):
        kind, size = rng.integers(0, 6), len(data)
        if size < 2:
            break
        first, second = sorted(rng.integers(0, size, 2).tolist())
        if kind <= 1:
            flipped = bytearray(data)
            for place in rng.integers(0, min(size, 200) if kind else size, rng.integers(1, 9)):
                flipped[place] ^= int(rng.integers(1, 256))
            data = bytes(flipped)
        elif kind == 2:
            data = data[:second]
        elif kind == 3:
            data = data[:first] + rng.bytes(int(rng.integers(1, 40))) + data[first:]
        elif kind == 4:
            length = int(rng.integers(1, 64))
            one, other = data[first : first + length], data[second : second + length]
            if first + length <= second:
                data = data[:first] + other + data[first + length : second] + one + data[second + length :]
        else:  # a number of the largest kind
            data = (
                data[:first]
                + (b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4))[rng.integers(3)]
                + data[first + 4 :]
            )
    if data.startswith(b"\x89PNG") and rng.integers(2):
        data = mended(data)
    return data


class Mutants:
    """A source of mutated images."""

    kind, location = "mutants", "<memory>"

    def __init__(self, count, seed):
        self._count, self._seed = count, seed

    def __iter__(self):
        return (ImageRecord(str(number)) for number in range(self._count))

    def read(self, record):
        number = int(record.name)
        rng = np.random.default_rng([self._seed, number])
        return mutate(rng, seeds()[number % len(seeds())])


def check(item):
    assert (item.pixels is None) == bool(item.reason), item.index
    if item.reason:
        assert item.reason.isprintable(), item.index
        assert len(item.reason) < 400
    else:
        assert item.pixels.shape == (32, 32, 3)
        assert item.pixels.dtype == np.uint8
        assert item.prepared.width > 0 < item.prepared.height


def test_seeds_are_pictures():
    class Seeds(Mutants):
        def read(self, record):
            return seeds()[int(record.name)]

    source = Seeds(len(seeds()), 0)
    assert [item.reason for item in load(source, source, CROP, workers=2)] == [""] * len(seeds())


def test_each_of_300_ends_as_a_picture_or_a_reason():
    source = Mutants(300, seed=1)
    pictures = 0
    for policy in (POLICY, FAST_POLICY):
        for item in load(source, source, CROP, workers=2, decoding=policy):
            check(item)
            pictures += not item.reason
    assert 100 < pictures < 500  # neither hopeless nor harmless


@pytest.mark.slow
def test_each_of_10_000_does_so_in_time_and_in_little_memory():
    import resource

    def peak():
        return max(
            resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )

    source = Mutants(10_000, seed=2)
    before, longest = peak(), 0.0
    reasons = {}
    loaders = [Loader(source, CROP, decoding=policy) for policy in (POLICY, FAST_POLICY)]
    for index, record in enumerate(source):
        started = time.perf_counter()
        item = loaders[index // len(seeds()) % 2](index, record)
        longest = max(longest, time.perf_counter() - started)
        check(item)
        kind = item.reason.partition("(")[0]
        reasons[kind] = reasons.get(kind, 0) + 1
    for child in isolation._pool()._idle:
        child.close()  # it is counted then
    for kind, count in sorted(reasons.items(), key=lambda pair: -pair[1])[:40]:
        print(f"{count:6} {kind or 'a picture'}")  # noqa: T201 - seen with -s
    print(f"the longest took {longest:.2f} s; {(peak() - before) / 1024:.0f} MiB more than before")  # noqa: T201
    assert longest < LONGEST
    assert (peak() - before) * 1024 < MOST_MEMORY
    assert len(reasons) > 10
