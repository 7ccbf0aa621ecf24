import numpy as np
import pytest

from featx.backbones.catalog import find_backbone
from featx.errors import SourceError
from featx.images.sources import list_images, open_source
from featx.training import pixels as module
from featx.training.pixels import load_images


def load(root, **more):
    source = open_source(root)
    record = find_backbone("featx-tiny").preprocess
    return load_images(source, list_images(source), record, workers=1, max_skip=0.1, **more)


def test_more_images_than_memory_are_mapped(make_photos, tmp_path, monkeypatch):
    root = make_photos(splits={"train": 4})
    (tmp_path / "scratch").mkdir()
    inside = load(root)
    assert not isinstance(inside.pixels, np.memmap)
    monkeypatch.setattr(module, "memory_bytes", lambda: 100_000)
    mapped = load(root, scratch=tmp_path / "scratch")
    assert isinstance(mapped.pixels, np.memmap)
    np.testing.assert_array_equal(mapped.pixels, inside.pixels)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_more_images_than_memory_and_disk(make_photos, tmp_path, monkeypatch):
    root = make_photos(splits={"train": 4})
    monkeypatch.setattr(module, "memory_bytes", lambda: 100_000)
    free = type("Usage", (), {"free": 50_000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: free)
    with pytest.raises(SourceError, match=r"8 images of 64×64 pixels take .* fewer images"):
        load(root, scratch=tmp_path)
