"""``extract`` by many processes into one directory: the same store, whoever comes when."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from directories import contents, flip, parts
from pictures import photo, png

import featx
import featx.store.directorywriter as writing
import featx.store.indexing as indexing
import featx.store.partswriter as partswriter
from featx.errors import (
    DriftError,
    FeatxError,
    ImageError,
    NotAStoreError,
    SpaceMismatchError,
    StoreError,
    StoreLockedError,
    TooManySkippedError,
)
from featx.sharding import Shard
from featx.store.directory import index_path, shard_index
from featx.store.storefile import StoreFile

LAYER = "input:avg"
N_IMAGES = 14


def extract(source, store, **options):
    defaults = {
        "backbone": "pixels",
        "layers": [LAYER],
        "store_dtype": "float32",
        "batch_size": 3,
        "workers": 2,
    }
    return featx.extract(source, store, **{**defaults, **options})


def extract_all(source, store, count, **options):
    """Run every shard; gives how many images each of them computed."""
    return [extract(source, store, shard=(n, count), **options).summary.computed for n in range(count)]


def of_shard(source, number, count):
    names = (path.relative_to(source).as_posix() for path in source.rglob("*.png"))
    return [name for name in names if Shard(number, count).holds(name)]


@pytest.fixture
def photos(make_photos):
    return make_photos(splits={"train": 5, "test": 2})


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def one_file(tmp_path):
    def make(source, **options):
        path = tmp_path / "one.h5"
        path.unlink(missing_ok=True)
        extract(source, path, **options).close()
        return contents(path)

    return make


class TestWhole:
    @pytest.mark.parametrize("count", [1, 3, 8])
    def test_shards_in_any_order_equal_one_file(self, photos, root, one_file, count, embedded):
        order = random.Random(count).sample(range(count), count)
        for number in order[:-1]:
            store = extract(photos, root, shard=f"{number}/{count}")
            mine = of_shard(photos, number, count)
            assert sorted(store.names) == sorted(mine)
            assert (store.summary.computed, store.summary.reused) == (len(mine), 0)
            (note,) = store.summary.notes
            assert f"shard {order[-1]}/{count} is missing" in note
            assert store.path == shard_index(root, Shard(number, count))
        store = extract(photos, root, shard=Shard(order[-1], count))
        assert store.path == root
        assert store.summary.notes == ()
        assert sum(embedded) == N_IMAGES
        assert contents(root) == one_file(photos)

    def test_a_slash_or_a_directory_is_enough(self, photos, tmp_path, one_file):
        (tmp_path / "empty").mkdir()
        (tmp_path / "link").symlink_to("empty2")
        (tmp_path / "empty2").mkdir()
        for path in (f"{tmp_path}/new/", tmp_path / "empty", tmp_path / "link"):
            extract(photos, path)
            assert os.path.isdir(path)
            assert contents(path) == one_file(photos)
            assert extract(photos, path).summary.computed == 0
        assert (tmp_path / "link").is_symlink()

    def test_the_number_comes_from_the_environment(self, photos, root, monkeypatch):
        for number in range(2):
            monkeypatch.setenv("RANK", str(number))
            monkeypatch.setenv("WORLD_SIZE", "2")
            store = extract(photos, root, shard="auto")
        assert len(store) == N_IMAGES

    def test_a_store_among_its_images(self, photos, one_file):
        expected = one_file(photos)
        assert sum(extract_all(photos, photos / "store", 2)) == N_IMAGES
        assert contents(photos / "store") == expected
        assert extract(photos, photos / "store").summary.computed == 0

    def test_arrays(self, root, tmp_path):
        images = np.random.default_rng(0).integers(0, 255, (9, 8, 8, 3), dtype=np.uint8)
        extract_all(images, root, 3)
        extract(images, tmp_path / "one.h5")
        assert contents(root) == contents(tmp_path / "one.h5")
        assert extract_all(images, root, 3) == [0, 0, 0]

    def test_an_image_alone(self, make_photos, root, one_file):
        photos = make_photos(splits={"": 1}, classes=("ants",))
        assert sum(extract_all(photos, root, 4)) == 1
        assert contents(root) == one_file(photos)


class TestAgain:
    @pytest.fixture
    def first(self, photos, root, embedded):
        extract_all(photos, root, 2)
        embedded.clear()
        return photos, root

    def test_nothing_changed(self, first, embedded, monkeypatch):
        def no_network(*_, **__):
            raise AssertionError("a network was loaded")

        monkeypatch.setattr("featx.backbones.network.load_network", no_network)
        before = index_path(first[1]).stat().st_mtime_ns
        for shard in (None, (0, 2), (1, 2), (2, 5)):
            store = extract(*first, shard=shard)
            assert (len(store), store.summary.computed, store.summary.reused) == (N_IMAGES, 0, N_IMAGES)
        assert embedded == []
        assert index_path(first[1]).stat().st_mtime_ns == before

    def test_only_new_bytes_are_computed_and_only_by_their_shard(self, first, one_file):
        photos, root = first
        before = contents(root)
        (photos / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
        (photos / "train/bees/000.png").write_bytes(png(photo("bees", 78)))
        (photos / "train/bees/001.png").rename(photos / "train/ants/moved.png")
        (photos / "train/bees/002.png").unlink()
        owner = int(Shard(1, 2).holds("train/ants/new.png")), int(Shard(1, 2).holds("train/bees/000.png"))
        store = extract(photos, root, shard=(0, 2))
        assert store.summary.computed == owner.count(0)
        assert "shard 1/2 is of another listing" in store.summary.notes[0]
        assert contents(root) == before
        assert extract(photos, root, shard=(1, 2)).summary.computed == owner.count(1)
        assert contents(root) == one_file(photos)

    def test_a_shard_that_has_nothing_new_loads_no_network(self, first, monkeypatch):
        """It joined the listing of before; now its own index is of this listing, and others are missing."""
        photos, root = first
        (photos / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
        extract(photos, root, shard=(0, 2))

        def no_network(*_, **__):
            raise AssertionError("a network was loaded")

        monkeypatch.setattr("featx.backbones.network.load_network", no_network)
        store = extract(photos, root, shard=(0, 2))
        assert store.summary.computed == 0
        assert "shard 1/2 is of another listing" in store.summary.notes[0]

    def test_seconds_are_counted_once(self, photos, root, monkeypatch):
        original = partswriter.write_part
        monkeypatch.setattr(
            partswriter, "write_part", lambda *a, **options: original(*a, **{**options, "seconds": 1000.0})
        )
        for number in range(4):
            store = extract(photos, root, shard=(number, 4))
        assert store.meta["seconds"] < 1000  # no shard found rows of its own, so each says its run's

    @pytest.mark.parametrize("count", [1, 3])
    def test_another_number_of_shards(self, first, one_file, count, embedded):
        photos, root = first
        (photos / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
        assert sum(extract_all(photos, root, count)) == 1
        assert contents(root) == one_file(photos)

    def test_a_layer_that_is_asked_for_later(self, first, one_file, embedded):
        photos, root = first
        store = extract(photos, root, shard=(0, 2), layers=["input:max"])
        assert "holds other layers" in store.summary.notes[0]
        assert [layer.name for layer in featx.FeatureStore(root).layers] == [LAYER]
        store = extract(photos, root, shard=(1, 2), layers=["input:max"])
        assert [layer.name for layer in store.layers] == ["input:max", LAYER]
        found, expected = contents(root), one_file(photos, layers=["input:max", LAYER])
        assert found == expected
        embedded.clear()
        assert extract(photos, root, shard=(0, 2)).summary.computed == 0
        assert embedded == []
        (photos / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
        assert sum(extract_all(photos, root, 2)) == 1
        assert contents(root) == one_file(photos, layers=[LAYER, "input:max"])

    @pytest.mark.parametrize("rerun", [(0, 2), (1, 2)])
    def test_a_kill_between_the_indexes_costs_nothing(
        self, photos, root, one_file, embedded, monkeypatch, rerun
    ):
        extract(photos, root, shard=(0, 2))

        def killed(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(writing, "join_shards", killed)
            with pytest.raises(KeyboardInterrupt):
                extract(photos, root, shard=(1, 2))
        assert not index_path(root).exists()
        embedded.clear()
        store = extract(photos, root, shard=rerun)
        assert (store.path, len(store), store.summary.computed) == (root, N_IMAGES, 0)
        assert embedded == []
        assert contents(root) == one_file(photos)

    def test_the_rows_before_a_kill_are_used_by_all(self, photos, root, one_file):
        def kill(progress):
            if progress.done >= 6:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extract(photos, root, shard=(0, 1), on_progress=kill)
        kept = sum(StoreFile(path).contents.rows for path in parts(root))
        assert kept >= 6
        assert sum(extract_all(photos, root, 3)) == N_IMAGES - kept
        assert contents(root) == one_file(photos)

    def test_rehash_reads_every_file_again(self, first, one_file):
        photos, root = first
        victim = photos / "train/ants/000.png"
        status, data = victim.stat(), victim.read_bytes()
        victim.write_bytes(data[:-12] + bytes(12))  # the same size: only the end mark is gone
        os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert extract(photos, root).summary.computed == 0
        computed = extract_all(photos, root, 2, rehash=True)
        assert sum(computed) == 1
        assert contents(root) == one_file(photos)


class TestFaults:
    @pytest.fixture
    def first(self, photos, root):
        extract_all(photos, root, 2)
        return photos, root, contents(root)

    @pytest.mark.parametrize("fault", ["missing", "truncated", "emptied", "structure", "swapped"])
    def test_exactly_the_lost_rows_are_computed(self, first, fault):
        photos, root, before = first
        victim = parts(root)[0]
        lost = StoreFile(victim).contents.rows
        if fault == "missing":
            victim.unlink()
        elif fault == "truncated":
            victim.write_bytes(victim.read_bytes()[:-1])
        elif fault == "emptied":
            victim.write_bytes(b"")
        elif fault == "structure":
            victim.write_bytes(victim.read_bytes()[:512] + bytes(victim.stat().st_size - 512))
        else:
            shutil.copyfile(parts(root)[1], victim)
        with featx.FeatureStore(root) as store, pytest.raises(FeatxError, match=str(victim)):
            store.X(LAYER)
        if fault in ("structure", "swapped"):
            victim.unlink()  # as the message says
        assert sum(extract_all(photos, root, 2)) == lost
        assert contents(root) == before

    def test_a_part_of_a_newer_featx_is_let_alone(self, first):
        photos, root, _ = first
        victim = parts(root)[0]
        flip(victim, 8 * 9)
        (photos / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
        for number in range(2):
            with pytest.raises(StoreError, match=f"{victim} is of store format .*update featx"):
                extract(photos, root, shard=(number, 2))
        flip(victim, 8 * 9)
        extract_all(photos, root, 2)
        assert len(contents(root)["names"]) == N_IMAGES + 1

    def test_a_damaged_index_of_a_shard(self, first):
        photos, root, before = first
        own = shard_index(root, Shard(1, 2))
        own.write_bytes(own.read_bytes()[:-1])
        index_path(root).unlink()
        note = extract(photos, root, shard=(0, 2)).summary.notes[0]
        assert "shard 1/2 is damaged" in note
        assert extract(photos, root, shard=(1, 2)).summary.computed == 0
        assert contents(root) == before

    @pytest.mark.parametrize("options", [{}, {"shard": (0, 2)}, {"rehash": True}, {"overwrite": True}])
    def test_a_damaged_index_is_made_anew(self, first, options):
        photos, root, before = first
        index_path(root).write_bytes(index_path(root).read_bytes()[:-5])
        computed = extract(photos, root, **options).summary.computed
        assert computed == 0 or "overwrite" in options
        assert contents(root) == before

    def test_a_flipped_bit_in_the_index_of_a_shard(self, first):
        """Where opening does not see it."""
        photos, root, before = first
        own = shard_index(root, Shard(0, 2))
        flip(own, 8 * (own.stat().st_size - 3))
        index_path(root).unlink()
        assert "shard 0/2 is damaged" in extract(photos, root, shard=(1, 2)).summary.notes[0]
        assert extract(photos, root, shard=(0, 2)).summary.computed == 0
        assert contents(root) == before

    def test_a_flipped_bit_in_a_row(self, first):
        photos, root, before = first
        victim = StoreFile(parts(root)[0])
        flip(victim.path, 8 * victim.contents.regions[0].offset)
        with pytest.raises(
            FeatxError, match=f"{victim.path}.*remove it, or run the extraction with --rehash"
        ):
            contents(root)
        assert sum(extract_all(photos, root, 2, rehash=True)) == victim.contents.rows
        assert contents(root) == before

    def test_a_part_of_another_shard_that_is_missing_is_said(self, first):
        photos, root, _ = first
        victim = next(path for path in parts(root) if path.parent.name == "0-of-2")
        victim.unlink()
        notes = extract(photos, root, shard=(1, 2)).summary.notes
        assert any(str(victim) in note for note in notes)

    def test_the_index_of_the_whole_in_place_of_a_shards(self, first):
        photos, root, before = first
        shutil.move(index_path(root), shard_index(root, Shard(0, 2)))
        assert "shard 0/2" in extract(photos, root, shard=(1, 2)).summary.notes[0]
        assert extract(photos, root, shard=(0, 2)).summary.computed == 0
        assert contents(root) == before

    def test_a_missing_part_costs_no_layer(self, photos, root, one_file):
        extract(photos, root, shard=(0, 1))
        (victim,) = parts(root)
        extract(photos, root, layers=["input:max"])
        victim.unlink()
        extract(photos, root, layers=["input:max"])
        assert contents(root) == one_file(photos, layers=["input:max", LAYER])

    def test_a_shard_that_is_being_written(self, photos, root):
        seen = []

        def second(_):
            with pytest.raises(StoreLockedError, match="0-of-2"):
                extract(photos, root, shard=(0, 2))
            seen.append(extract(photos, root, shard=(1, 2)).summary.computed)

        store = extract(photos, root, shard=(0, 2), batch_size=20, on_progress=second)
        assert seen[0] > 0
        assert len(store) == N_IMAGES

    def test_a_single_file_is_no_directory(self, photos, tmp_path):
        path = tmp_path / "one.h5"
        extract(photos, path).close()
        before = path.read_bytes()
        for options in ({}, {"overwrite": True}):
            with pytest.raises(NotAStoreError, match="is no directory"):
                extract(photos, path, shard=(0, 2), **options)
        assert path.read_bytes() == before

    def test_a_single_file_that_is_called_index_is_not_replaced(self, photos, root):
        root.mkdir()
        extract(photos, index_path(root), layers=["flatten"]).close()
        before = index_path(root).read_bytes()
        with pytest.raises(NotAStoreError, match=str(root)):
            extract(photos, root)
        assert index_path(root).read_bytes() == before
        assert os.listdir(root) == ["index.h5"]

    def test_the_folder_of_the_images_is_no_store(self, photos):
        before = sorted(photos.rglob("*"))
        for options in ({}, {"overwrite": True}, {"shard": (0, 2)}):
            with pytest.raises(NotAStoreError, match="holds other files"):
                extract(photos, photos, **options)
        assert sorted(photos.rglob("*")) == before


class TestSkipped:
    @pytest.fixture
    def photos(self, photos):
        (photos / "train/ants/broken.png").write_bytes(b"no image")
        return photos

    def test_in_one_shard_only(self, photos, root, one_file):
        bad = int(Shard(1, 2).holds("train/ants/broken.png"))
        for number in range(2):
            store = extract(photos, root, shard=(number, 2), max_skip=0.3)
            if "shard" in store.meta:
                assert store.summary.skipped == (number == bad)
        assert contents(root) == one_file(photos)
        assert [item.name for item in store.skipped] == ["train/ants/broken.png"]
        assert extract(photos, root).summary.skipped == 1

    def test_the_share_is_that_of_all_images(self, photos, root, one_file):
        """One in fifteen, though a shard may hold nothing else."""
        names = [path.relative_to(photos).as_posix() for path in photos.rglob("*.png")]
        count, number = next(
            (count, number)
            for count in range(2, 99)
            for number in range(count)
            if [name for name in names if Shard(number, count).holds(name)] == ["train/ants/broken.png"]
        )
        store = extract(photos, root, shard=(number, count))
        assert (len(store), store.summary.skipped) == (0, 1)
        extract_all(photos, root, 2)
        assert contents(root) == one_file(photos)

    def test_more_than_allowed(self, photos, root):
        bad = int(Shard(1, 2).holds("train/ants/broken.png"))
        extract(photos, root, shard=(1 - bad, 2), max_skip=0)
        with pytest.raises(TooManySkippedError, match="broken"):
            extract(photos, root, shard=(bad, 2), max_skip=0)
        with pytest.raises(ImageError, match="broken"):
            extract(photos, root, shard=(bad, 2), strict=True)
        store = extract(photos, root, shard=(bad, 2), max_skip=0.3)
        assert store.summary.computed < len(of_shard(photos, bad, 2)) - 1  # what was computed is kept
        assert len(store) == N_IMAGES
        with pytest.raises(TooManySkippedError):
            extract(photos, root, max_skip=0)


class TestOverwrite:
    def test_another_space(self, photos, root, one_file):
        extract_all(photos, root, 2)
        before, old = contents(root), parts(root)
        other = {"image_size": 16}
        with pytest.raises(SpaceMismatchError, match="image_size is 32 there and 16 now"):
            extract(photos, root, shard=(0, 2), **other)
        assert extract(photos, root, shard=(0, 2), overwrite=True, **other).summary.computed > 0
        assert contents(root) == before
        extract(photos, root, shard=(1, 2), overwrite=True, **other)
        assert contents(root) == one_file(photos, **other)
        assert not set(old) & set(parts(root))
        (photos / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
        assert sum(extract_all(photos, root, 3, **other)) == 1

    @pytest.mark.parametrize("where", ["before the joined index", "after it"])
    def test_a_kill_at_its_end(self, photos, root, one_file, monkeypatch, where):
        """What is left is finished without --overwrite, and then nothing is left of the old space."""
        extract_all(photos, root, 2)
        old, other = set(parts(root)), {"image_size": 16}
        extract(photos, root, shard=(0, 2), overwrite=True, **other)

        def killed(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            place = (indexing, "_outdated") if where == "after it" else (writing, "join_shards")
            patch.setattr(*place, killed)
            with pytest.raises(KeyboardInterrupt):
                extract(photos, root, shard=(1, 2), overwrite=True, **other)
        assert extract(photos, root, shard=(1, 2), **other).summary.computed == 0
        (photos / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
        assert sum(extract_all(photos, root, 2, **other)) == 1
        assert contents(root) == one_file(photos, **other)
        assert not old & set(parts(root))

    def test_the_same_space(self, photos, root, one_file):
        extract_all(photos, root, 2)
        old = set(parts(root))
        assert sum(extract_all(photos, root, 2, overwrite=True)) == N_IMAGES
        assert contents(root) == one_file(photos)
        assert not old & set(parts(root))

    def test_rows_of_another_build_are_given_up_when_asked_to(self, photos, root, one_file, monkeypatch):
        from featx.backbones.network import Network

        def kill(progress):
            if progress.done >= 6:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extract(photos, root, shard=(0, 1), on_progress=kill)
        original = Network.embed
        monkeypatch.setattr(
            Network, "embed", lambda self, x: {name: 2 * rows for name, rows in original(self, x).items()}
        )
        with pytest.raises(DriftError, match=str(root)):
            extract(photos, root, shard=(0, 1))
        assert extract(photos, root, shard=(0, 1), overwrite=True).summary.computed == N_IMAGES
        assert contents(root) == one_file(photos)
        assert featx.FeatureStore(root).n_parts == len(parts(root))


class TestElsewhere:
    @pytest.fixture
    def both(self, photos, root, tmp_path):
        extract_all(photos, root, 2, layers=[LAYER, "input:max"])
        extract(photos, tmp_path / "one.h5", layers=[LAYER, "input:max"]).close()
        return featx.FeatureStore(root), featx.FeatureStore(tmp_path / "one.h5")

    def test_one_file_that_goes_on(self, photos, both, tmp_path, embedded):
        many, one = both
        many.export(tmp_path / "out.h5")
        assert contents(tmp_path / "out.h5") == contents(one.path)
        store = extract(photos, tmp_path / "out.h5", layers=[LAYER, "input:max"])
        assert (len(store), store.summary.computed, embedded) == (N_IMAGES, 0, [])
        (photos / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
        assert extract(photos, tmp_path / "out.h5").summary.computed == 1

    def test_npz_csv_and_parquet(self, both, tmp_path):
        paths = {}
        for suffix in ("npz", "csv"):
            paths[suffix] = [store.export(tmp_path / f"{store.path.stem}.{suffix}") for store in both]
        there, here = (np.load(path) for path in paths["npz"])
        with there, here:
            assert there.files == here.files
            for name in there.files:
                np.testing.assert_array_equal(there[name], here[name])
        there, here = (path.read_bytes() for path in paths["csv"])
        assert there == here
        parquet = pytest.importorskip("pyarrow.parquet")
        there, here = (
            parquet.read_table(store.export(tmp_path / f"{store.path.stem}.parquet")) for store in both
        )
        assert there.equals(here)

    def test_fit_gives_the_same_results(self, both):
        found = [featx.fit(store, heads=["ridge"], cv=2, jobs=1, learning_curve=False) for store in both]
        rows = [
            [(row.layer, row.head, row.params, row.cv, row.test) for row in results.rows] for results in found
        ]
        assert rows[0] == rows[1]
        assert len(rows[0]) == 2
        for one, other in zip(*(results.predictions for results in found), strict=True):
            np.testing.assert_array_equal(one.probabilities, other.probabilities)


FOUR = """
import json, os, signal, sys, time, traceback
import featx
from featx.backbones.network import Network
from featx.store.partswriter import PartsWriter

jobs = json.load(sys.stdin)
add, embed = PartsWriter.add, Network.embed

def work(job, number):
    calls, added = [], []

    def add_part(self, *rows, **more):
        add(self, *rows, **more)
        self.flush()
        added.append(1)

    def counted(self, pixels):
        calls.append(1)
        if job["kill"] == number and len(calls) == 3:
            while not added:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return embed(self, pixels)

    PartsWriter.add, Network.embed = add_part, counted
    os.read(gate, 1)
    featx.extract(job["source"], job["store"], shard=(number, 4), **job["options"])

for job in jobs:
    gate, opener = os.pipe()
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            try:
                os.close(opener)
                work(job, number)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    os.close(gate)
    os.close(opener)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)
"""


def test_four_processes_at_once(make_photos, tmp_path, one_file):
    """All four start at the same moment; in the second job one is killed, and then comes back."""
    photos = make_photos(splits={"train": 9, "test": 3})
    (photos / "train/ants/twin.png").write_bytes((photos / "test/ants/000.png").read_bytes())
    options = {
        "backbone": "pixels",
        "layers": [LAYER],
        "store_dtype": "float32",
        "batch_size": 2,
        "workers": 1,
    }
    victim = 2
    mine = of_shard(photos, victim, 4)
    assert len(mine) > 4
    jobs = [
        {"source": str(photos), "store": str(tmp_path / name), "options": options, "kill": kill}
        for name, kill in (("clean", -1), ("killed", victim))
    ]
    done = subprocess.run(
        [sys.executable, "-c", FOUR],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    clean, killed = [json.loads(line) for line in done.stdout.splitlines()]
    assert clean == [0] * 4, done.stderr
    assert killed == [-signal.SIGKILL if number == victim else 0 for number in range(4)], done.stderr
    expected = one_file(photos)
    assert contents(tmp_path / "clean") == expected
    with pytest.raises(StoreError, match="not finished"):
        featx.FeatureStore(tmp_path / "killed")
    folder = tmp_path / "killed" / "shards" / f"{victim}-of-4"
    kept = sum(StoreFile(path).contents.rows for path in folder.glob("part-*.h5"))
    assert 0 < kept <= 4
    store = extract(photos, tmp_path / "killed", shard=(victim, 4))
    assert (store.path, store.summary.notes) == (tmp_path / "killed", ())
    # A twin may have been computed by its shard as well.
    assert len(mine) - kept - 1 <= store.summary.computed <= len(mine) - kept
    assert contents(tmp_path / "killed") == expected
