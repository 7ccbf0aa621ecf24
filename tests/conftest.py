"""Small seeded images, and a count of what went through a network."""

import os

import pytest
from pictures import photo, png

# The tests measure no speed, and two threads of every library on two cores only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def make_photos(tmp_path):
    """Write ``count`` photos a class into split folders, or class folders where a split is ''."""

    def make(name="photos", splits=None, classes=("ants", "bees")):
        root = tmp_path / name
        for number, (split, count) in enumerate((splits or {"train": 12, "test": 8}).items()):
            for label in classes:
                folder = root / split / label
                folder.mkdir(parents=True, exist_ok=True)
                for index in range(count):
                    (folder / f"{index:03}.png").write_bytes(png(photo(label, 1000 * number + index)))
        return root

    return make


@pytest.fixture
def embedded(monkeypatch):
    """Numbers of images that each forward pass saw."""
    from featx.backbones.network import Network

    counts = []
    original = Network.embed

    def embed(self, pixels):
        counts.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(Network, "embed", embed)
    return counts
