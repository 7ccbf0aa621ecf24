from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
from directories import album, flip, parts, write_all

import featx
import featx.store.storefile
from featx.errors import DamagedStoreError, NotAStoreError, StoreError, UnknownNameError
from featx.records import LayerInfo, Progress
from featx.store.directory import index_path
from featx.store.reader import FeatureStore
from featx.store.storefile import StoreFile
from featx.store.userblock import SIZE, Header, pack_header


def test_h5py_alone_reads_a_store_as_designed(kit, path):
    images, skipped = kit.awkward_store(path)
    with h5py.File(path) as h5:
        assert h5.userblock_size == 512
        assert set(h5) == {"images", "features", "skipped"}
        assert {"featx_format", "featx_version", "space", "space_key", "request", "source", "created"} <= set(
            h5.attrs
        )
        assert h5.attrs["featx_format"] == 1
        assert h5.attrs["featx_version"] == featx.__version__
        assert h5.attrs["seconds"] == 2.5
        assert h5.attrs["peak_memory_bytes"] == 9
        assert h5.attrs["space"] == kit.space().canonical
        assert h5.attrs["space_key"] == kit.space().key
        assert h5["images/name"][:].tolist() == [os.fsencode(image.record.name) for image in images]
        assert h5["images/label"].asstr()[:].tolist() == ["ant", "", "bee\n🐝"] * 2
        assert h5["images/split"].asstr()[1] == "test"
        assert h5["images/group"].asstr()[1] == "g1"
        assert h5["images/digest"].dtype == np.uint8
        assert h5["images/digest"][3].tobytes() == images[3].digest
        assert h5["images/size"][:].tolist() == list(range(6))
        assert h5["images/mtime_ns"][5] == 10**18 + 5
        assert h5["images/phash"].dtype == np.uint64
        assert h5["images/columns/camera%2Fleft %25"].asstr()[2] == "v2"
        assert h5["skipped/reason"].asstr()[:].tolist() == [image.reason for image in skipped]
        assert h5["skipped/name"].shape == (2,)
        assert h5["skipped/digest"].shape == (2, 32)
        dataset = h5["features/layer4.1:avg"]
        assert dict(dataset.attrs) == {"node": "layer4.1", "pool": "avg", "dim": 5}
        assert dataset.dtype == np.float16
        assert dataset.chunks is None
        assert dataset.compression is None
        assert dataset.id.get_offset() % 64 == 0
        assert np.array_equal(dataset[:], kit.expected(range(6), kit.avg))


def test_embeddings_are_a_read_only_memory_map(kit, path):
    kit.store(path)
    with FeatureStore(path) as store:
        X = store.X("layer4.1:avg")
    assert isinstance(X, np.memmap)
    assert X.dtype == np.float16
    assert X.flags.aligned
    with pytest.raises(ValueError, match="read-only"):
        X[0, 0] = 1
    # A map outlives the store that gave it.
    assert np.array_equal(X, kit.expected(range(10), kit.avg))


def test_a_layer_is_found_by_its_node_if_that_is_clear(kit, path):
    kit.store(path, layers=[kit.avg, LayerInfo("layer4.1", "max", 4), kit.flat])
    with FeatureStore(path) as store:
        assert store.X("classifier.4").shape == (10, 3)
        assert store.layer("layer4.1:max").dim == 4
        with pytest.raises(UnknownNameError, match="2 ways"):
            store.X("layer4.1")
        with pytest.raises(UnknownNameError, match=r"Unknown layer 'layer4\.2:avg'.*'layer4\.1:avg'"):
            store.X("layer4.2:avg")


def test_layers_stand_in_the_order_asked_for(kit, path):
    layers = [kit.flat, LayerInfo("z", "avg", 2), kit.avg]
    kit.store(path, layers=layers)
    with FeatureStore(path) as store:
        assert list(store.layers) == layers


def test_a_replaced_store_stays_what_it_was_while_open(kit, path):
    kit.store(path, range(3))
    with FeatureStore(path) as old:
        kit.store(path, range(5, 9))
        assert old.names[0] == "img000-0.jpg"
        assert np.array_equal(old.X("layer4.1"), kit.expected(range(3), kit.avg))
    with FeatureStore(path) as new:
        assert len(new) == 4


def test_a_closed_store_says_so(kit, path):
    kit.store(path)
    store = FeatureStore(path)
    names = store.names
    store.close()
    store.close()
    assert store.names is names
    assert store.meta["seconds"] == 1.5
    for use in (lambda: store.y, lambda: store.X("layer4.1"), store.verify):
        with pytest.raises(StoreError, match="has been closed; open it again"):
            use()


def test_a_forgotten_store_closes_its_file(kit, path):
    kit.store(path)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    store = FeatureStore(path)
    assert store.names
    del store
    gc.collect()
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_missing_store_says_how_to_make_one(path):
    with pytest.raises(StoreError, match=r"There is no store .*featx extract SOURCE -o"):
        FeatureStore(path)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n" + bytes(600), pickle.dumps([1])]
)
def test_other_files_are_no_stores(path, content):
    path.write_bytes(content)
    with pytest.raises(NotAStoreError, match=r"exists and is (no featx store|an HDF5 file)"):
        FeatureStore(path)


def test_an_hdf5_file_of_somebody_else_is_not_opened(path, monkeypatch):
    with h5py.File(path, "w") as h5:
        h5["x"] = 1
    monkeypatch.setattr(h5py, "File", None)
    with pytest.raises(NotAStoreError, match=r"HDF5 file that featx did not write.*featx import"):
        FeatureStore(path)


def test_a_directory_and_a_pipe_are_no_stores(tmp_path):
    with pytest.raises(NotAStoreError, match="is a directory"):
        FeatureStore(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.h5")
        with pytest.raises(NotAStoreError, match="no regular file"):
            FeatureStore(tmp_path / "pipe.h5")


def test_a_part_is_no_store(kit, path):
    with kit.writer(path) as writer:
        writer.add(*kit.rows([1]))
    (part,) = path.with_name("photos.h5.parts").iterdir()
    with pytest.raises(NotAStoreError, match="one part of a store"):
        FeatureStore(part)


def test_every_truncation_is_noticed_on_opening(kit, path):
    kit.store(path)
    data = path.read_bytes()
    for length in [*range(1, 600, 23), *range(600, len(data), 997), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(StoreError, match=r"truncated|ends after|no featx store"):
            FeatureStore(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(DamagedStoreError, match="longer than it was"):
        FeatureStore(path)


def test_verify_finds_every_flipped_bit(kit, path):
    kit.store(path)
    data = path.read_bytes()
    store = FeatureStore(path)
    generator = np.random.default_rng(0)
    places = [*generator.integers(0, SIZE * 8, 50), *generator.integers(SIZE * 8, len(data) * 8, 150)]
    for place in places:
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(StoreError, match=str(path)):
            store.verify()
    path.write_bytes(data)
    store.verify()


def test_a_newer_format_asks_for_an_update(kit, path):
    kit.store(path)
    data = path.read_bytes()[SIZE:]
    path.write_bytes(pack_header(Header(7, len(data), bytes(32))) + data)
    with pytest.raises(DamagedStoreError, match=r"format 7, newer than 1.*update featx"):
        FeatureStore(path)


def test_verify_finds_values_that_are_not_finite(kit, path, monkeypatch):
    monkeypatch.setattr(
        "featx.store.writer.StoreWriter._cast", lambda self, layer, values, digests: np.float16(values)
    )
    digests, phashes, features = kit.rows([1, 2])
    features["layer4.1:avg"][1, 0] = np.nan
    with kit.writer(path) as writer:
        writer.add(digests, phashes, features)
        writer.finish(kit.images([1, 2]), [], {})
    with (
        FeatureStore(path) as store,
        pytest.raises(DamagedStoreError, match=r"row 1 of 'layer4\.1:avg' is not finite"),
    ):
        store.verify()


def test_blocks_that_are_too_few_never_become_a_store(kit, path, monkeypatch):
    monkeypatch.setattr("featx.store.writer.gather", lambda *a: iter([np.zeros((2, 5), "<f2")]))
    with pytest.raises(StoreError, match="got 2 rows, expected 10"):
        kit.store(path)
    assert not path.exists()


PICTURES = album(range(9), twins=(2,))


@pytest.fixture(params=["file", "directory"])
def either(request, kit, tmp_path):
    """A store, and the files with its bytes."""
    if request.param == "file":
        kit.store(tmp_path / "photos.h5", range(9))
        return tmp_path / "photos.h5", [tmp_path / "photos.h5"]
    write_all(kit, tmp_path / "photos", PICTURES, 2)
    return tmp_path / "photos", [index_path(tmp_path / "photos"), *parts(tmp_path / "photos")]


def damage_rows(kit, file):
    """Flip the sign of one number, where nothing but the checksum can tell."""
    (region,) = (region for region in StoreFile(file).contents.regions if region.layer == kit.avg)
    flip(file, 8 * region.offset + 15)


@pytest.fixture
def hashed(monkeypatch):
    """The files that are hashed, in turn."""
    paths = []
    hash_all = featx.store.storefile.check_bytes

    def count(file, path, *rest, **options):
        paths.append(path)
        hash_all(file, path, *rest, **options)

    monkeypatch.setattr(featx.store.storefile, "check_bytes", count)
    return paths


class TestRequireBytes:
    def test_names_the_file_with_a_flipped_bit(self, kit, either):
        path, files = either
        damage_rows(kit, files[-1])
        store = FeatureStore(path)
        assert np.isfinite(store.X(kit.avg.name)).all()
        for _ in range(2):
            with pytest.raises(DamagedStoreError, match=r"SHA-256") as caught:
                store.require_bytes()
            assert str(files[-1]) in str(caught.value)

    def test_names_the_first_of_several_and_stops(self, kit, tmp_path):
        write_all(kit, tmp_path / "s", album(range(40)), 1, step=2)
        for victim in parts(tmp_path / "s")[3:]:
            damage_rows(kit, victim)
        with pytest.raises(DamagedStoreError) as caught:
            FeatureStore(tmp_path / "s").require_bytes()
        assert str(parts(tmp_path / "s")[3]) in str(caught.value)

    def test_needs_every_part(self, kit, tmp_path):
        write_all(kit, tmp_path / "s", PICTURES, 2)
        store = FeatureStore(tmp_path / "s")
        parts(tmp_path / "s")[1].unlink()
        with pytest.raises(StoreError, match=rf"{parts(tmp_path / 's')[0].parent.parent}.* is missing"):
            store.require_bytes()

    def test_hashes_each_file_once(self, either, hashed):
        path, files = either
        store = FeatureStore(path)
        steps: list[Progress] = []
        store.require_bytes(steps.append)
        assert sorted(hashed) == sorted(files)
        assert steps[-1].done == steps[-1].total == store.nbytes
        store.require_bytes()
        assert len(hashed) == len(files)

    def test_believes_what_was_hashed_at_opening(self, either, hashed):
        path, files = either
        store = FeatureStore(path, check=True)
        store.require_bytes()
        assert sorted(hashed) == sorted(files)
        store.verify()
        assert hashed.count(files[0]) == 2

    def test_is_free_after_verify_until_that_finds_something(self, kit, either, hashed):
        path, files = either
        store = FeatureStore(path)
        store.verify()
        count = len(hashed)
        store.require_bytes()
        assert len(hashed) == count
        damage_rows(kit, files[-1])
        with pytest.raises(DamagedStoreError):
            store.verify()
        with pytest.raises(DamagedStoreError):
            store.require_bytes()

    @pytest.mark.parametrize("suffix", [".h5", ".npz", ".csv"])
    def test_guards_exports(self, kit, either, tmp_path, suffix):
        path, files = either
        damage_rows(kit, files[-1])
        with pytest.raises(DamagedStoreError, match=files[-1].name), FeatureStore(path) as store:
            store.export(tmp_path / f"out{suffix}")
        assert not list(tmp_path.glob("out*"))


def test_verify_hashes_again_each_time_but_right_after_opening(either, hashed):
    path, files = either
    store = FeatureStore(path, check=True)
    assert hashed == [files[0]]
    for count in (1, 2, 3):
        store.verify()
        assert hashed.count(files[0]) == count


def test_checking_and_verifying_are_one_stage(either):
    path, _ = either
    steps: list[Progress] = []
    store = FeatureStore(path, check=True, on_progress=steps.append)
    opening = len(steps)
    assert opening
    store.verify(steps.append)
    assert {(step.stage, step.unit, step.total) for step in steps} == {("verify", "bytes", store.nbytes)}
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert len(done) > opening
    assert done[-1] == store.nbytes


class TestPickle:
    code = (
        "import pickle, sys\n"
        "store = pickle.load(sys.stdin.buffer)\n"
        "values = [store.X(layer.name).tolist() for layer in store.layers]\n"
        "sys.stdout.buffer.write(pickle.dumps((store.names, store.y.tolist(), values)))"
    )

    def test_reads_the_same_in_another_process(self, kit, either, tmp_path, monkeypatch):
        path, _ = either
        monkeypatch.chdir(path.parent)
        with FeatureStore(path.name) as store:
            (tmp_path / "elsewhere").mkdir()
            monkeypatch.chdir(tmp_path / "elsewhere")
            done = subprocess.run(
                [sys.executable, "-c", self.code],
                input=pickle.dumps(store),
                stdout=subprocess.PIPE,
                env=kit.environment(),
                check=True,
                timeout=60,
            )
            names, labels, values = pickle.loads(done.stdout)
            assert names == store.names
            assert labels == store.y.tolist()
            assert values == [store.X(layer.name).tolist() for layer in store.layers]

    def test_another_store_in_its_place_is_refused(self, kit, either):
        path, files = either
        data = pickle.dumps(FeatureStore(path))
        pickle.loads(data).close()
        if len(files) > 1:
            write_all(kit, path, album(range(8)), 2)
        else:
            kit.store(path, range(8))
        assert len(FeatureStore(path)) == 8
        with pytest.raises(StoreError, match=rf"{path} was replaced since the store was pickled"):
            pickle.loads(data)


def test_no_torch_is_loaded(kit):
    code = "import featx.store, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=kit.environment(), timeout=60).returncode == 0
