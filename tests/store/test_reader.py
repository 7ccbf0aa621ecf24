from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest

import featx
from featx.errors import DamagedStoreError, NotAStoreError, StoreError, UnknownNameError
from featx.records import LayerInfo
from featx.store.reader import FeatureStore
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


def test_no_torch_is_loaded(kit):
    code = "import featx.store, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=kit.environment(), timeout=60).returncode == 0
