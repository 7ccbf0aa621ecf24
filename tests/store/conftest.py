"""Rows that are recognisable, and stores made of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

import featx
from featx.records import ImageRecord, LayerInfo, SkippedImage, Space
from featx.store.writer import IndexRow, StoreWriter

AVG = LayerInfo("layer4.1", "avg", 5)
FLAT = LayerInfo("classifier.4", "flatten", 3)


class Kit:
    """What the tests of the store share."""

    avg, flat = AVG, FLAT
    root = Path(featx.__file__).parent.parent

    def space(self, **changes):
        fields = {
            "provider": "custom",
            "backbone": "net",
            "weights": {"digest": "ab" * 32},
            "preprocess": {"mean": [0.5, 0.5, 0.5], "image_size": 8},
            "decoding": "1",
            "precision": "fp32",
            "store_dtype": "float16",
        }
        return Space(**(fields | changes))

    def digest(self, key):
        return hashlib.sha256(str(key).encode()).digest()

    def rows(self, keys, layers=(AVG, FLAT)):
        """Digests, phashes and features that depend on the key alone."""
        digests = np.frombuffer(b"".join(self.digest(key) for key in keys), np.uint8).reshape(-1, 32)
        phashes = np.array([int.from_bytes(self.digest(key)[:8], "big") for key in keys], np.uint64)
        features = {layer.name: np.stack([self.row(key, layer) for key in keys]) for layer in layers}
        return digests, phashes, features

    def shapes(self, keys):
        """Sizes and modes that depend on the key alone, as a writer takes them."""
        bytes_of = [self.digest(key)[:3] for key in keys]
        return {
            "widths": [1 + first for first, _, _ in bytes_of],
            "heights": [1 + second for _, second, _ in bytes_of],
            "modes": [("RGB", "L", "I;16")[third % 3] for _, _, third in bytes_of],
        }

    def row(self, key, layer):
        seed = int.from_bytes(hashlib.sha256(f"{key} {layer.name}".encode()).digest()[:4], "big")
        return np.random.default_rng(seed).normal(size=layer.dim).astype(np.float32)

    def images(self, keys):
        return [
            IndexRow(
                ImageRecord(f"img{number:03d}-{key}.jpg", label=f"c{number % 2}", size=number),
                self.digest(key),
            )
            for number, key in enumerate(keys)
        ]

    def writer(self, path, layers=(AVG, FLAT), *, space=None, **options):
        return StoreWriter(
            path,
            space or self.space(),
            layers,
            request={"seed": 0, "layers": ["a"]},
            source="photos",
            **options,
        )

    def store(self, path, keys=range(10), layers=(AVG, FLAT), *, skipped=(), **options):
        """Write what is missing, a few rows at a time, and finish."""
        with self.writer(path, layers, **options) as writer:
            todo = [key for key in dict.fromkeys(keys) if self.digest(key) not in writer.known]
            for start in range(0, len(todo), 4):
                writer.add(
                    *self.rows(todo[start : start + 4], layers), **self.shapes(todo[start : start + 4])
                )
            writer.finish(self.images(keys), list(skipped), {"seconds": 1.5, "peak_memory_bytes": 7})
        return len(todo)

    def expected(self, keys, layer):
        return np.stack([self.row(key, layer) for key in keys]).astype(np.float16)

    def environment(self):
        return os.environ | {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}

    awkward = (
        "plain.jpg",
        "line\nbreak.jpg",
        "🐝 été.png",
        os.fsdecode(b"caf\xe9/\xff\xfe.jpg"),
        'tab\t"quote",comma.jpg',
        "x" * 240 + ".jpg",
    )

    def awkward_images(self):
        return [
            IndexRow(
                ImageRecord(
                    name,
                    label=("ant", None, "bee\n🐝")[number % 3],
                    split=("train", "test", None)[number % 3],
                    group=(None, "g1")[number % 2],
                    size=number,
                    mtime_ns=10**18 + number,
                    columns={"camera/left %": f"v{number}", "": "empty", ".": os.fsdecode(b"\xff")},
                ),
                self.digest(number),
            )
            for number, name in enumerate(self.awkward)
        ]

    def awkward_store(self, path):
        images = self.awkward_images()
        with self.writer(path) as writer:
            writer.add(*self.rows(range(len(images))), **self.shapes(range(len(images))))
            skipped = [
                SkippedImage("a\nb.txt", self.digest("x"), "no image"),
                SkippedImage(os.fsdecode(b"\xff.jpg"), b"", "cannot be read"),
            ]
            writer.finish(images, skipped, {"seconds": 2.5, "peak_memory_bytes": 9, "canary": [1, 2]})
        return images, skipped


@pytest.fixture(scope="session")
def kit():
    return Kit()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "photos.h5"


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Tests that kill processes sync for real, in the child; the others only count the calls."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
