"""Overwriting a directory store while other shards are at work, or after a kill."""

from __future__ import annotations

from contextlib import suppress

import pytest
from directories import album, contents, parts, write, write_all
from pictures import photo, png

import featx
from featx.errors import FeatxError, StoreError
from featx.sharding import Shard
from featx.store.directory import shard_index
from featx.store.reader import FeatureStore

PICTURES = album(range(11), bad=(30,), twins=(2, 5))
LAYER = "input:avg"


def extract(source, store, **options):
    defaults = {"backbone": "pixels", "layers": [LAYER], "store_dtype": "float32", "batch_size": 3}
    return featx.extract(source, store, **{**defaults, **options})


@pytest.fixture
def photos(make_photos):
    return make_photos(splits={"": 6})


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def whole(photos, root):
    for number in range(2):
        extract(photos, root, shard=(number, 2))
    return root


def killed(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("finish", [False, True])
def test_an_overwrite_under_way_keeps_its_parts(kit, root, finish):
    write_all(kit, root, PICTURES, 2)
    old = set(parts(root))
    other = {"space": kit.space(precision="bf16"), "overwrite": True}
    write(kit, root, PICTURES, (0, 3), finish=finish, **other)
    new = set(parts(root)) - old
    more = album(range(12))
    with suppress(StoreError):
        write_all(kit, root, more, 2)
    assert new <= set(parts(root))


def test_an_outdated_index_of_another_space_stops_nobody(kit, root, monkeypatch):
    space = kit.space(precision="bf16")
    write_all(kit, root, PICTURES, 2)
    with monkeypatch.context() as patch:
        patch.setattr("featx.store.indexing._outdated", killed)
        with pytest.raises(KeyboardInterrupt):
            write_all(kit, root, PICTURES, 3, space=space, overwrite=True)
    FeatureStore(root).verify()
    write_all(kit, root, album(range(12)), 2, space=space)
    assert len(contents(root)["names"]) == 12


def test_a_source_of_broken_files_is_refused_in_shards_too(tmp_path, root):
    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / "photos" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(FeatxError, match="None of the 6 files"):
        extract(tmp_path / "photos", tmp_path / "one.h5", max_skip=1)
    with suppress(FeatxError):
        extract(tmp_path / "photos", root, shard=(0, 2), max_skip=1)
    with pytest.raises(FeatxError, match="None of the 6 files"):
        extract(tmp_path / "photos", root, shard=(1, 2), max_skip=1)


def test_rows_that_were_given_up_are_not_used_again(photos, root, monkeypatch):
    from featx.backbones.network import Network

    def kill(progress):
        if progress.done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(photos, root, shard=(0, 2), on_progress=kill, batch_size=2, workers=1)
    original = Network.embed
    monkeypatch.setattr(
        Network, "embed", lambda self, x: {name: 2 * rows for name, rows in original(self, x).items()}
    )
    extract(photos, root, shard=(0, 2), overwrite=True)
    own = shard_index(root, Shard(0, 2))
    with FeatureStore(own) as store:
        expected = dict(zip(store.names, store.X(LAYER).tolist(), strict=True))
    for number in range(20, 24):
        (photos / f"ants/{number}.png").write_bytes(png(photo("ants", number)))
    extract(photos, root, shard=(0, 2))
    with FeatureStore(own) as store:
        found = dict(zip(store.names, store.X(LAYER).tolist(), strict=True))
    assert {name: found[name] for name in expected} == expected
