from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

from featx.errors import NotAStoreError, StoreError
from featx.files import temporary_path
from featx.store.importing import write_arrays
from featx.store.reader import FeatureStore

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def test_arrays_become_a_store(path):
    names = ["a.jpg", "b\n.jpg", os.fsdecode(b"\xff.jpg"), "🐝"]
    y = np.array([3, 1, 3, 2])
    store = FeatureStore.from_arrays(
        path,
        X,
        y,
        names,
        backbone="clip",
        layer="emb",
        splits=["train", "test", None, ""],
        groups=list("aabb"),
    )
    with store:
        assert np.array_equal(store.X("emb"), X)
        assert store.X("emb").dtype == np.float32
        assert store.y.tolist() == ["3", "1", "3", "2"]
        assert store.names == names
        assert store.splits.tolist() == ["train", "test", "", ""]
        assert store.groups.tolist() == list("aabb")
        assert store.space.provider == "import"
        assert store.space.backbone == "clip"
        assert store.space.store_dtype == "float32"
        assert store.digests[0].tobytes() == hashlib.sha256(b"a.jpg").digest()
        assert len(set(store.phashes.tolist())) == 4
        store.verify()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_several_layers_and_half_precision(path):
    layers = {"fc:avg": X.astype(np.float16), "head": X[:, :1].astype(np.float16)}
    with FeatureStore.from_arrays(path, layers) as store:
        assert [layer.name for layer in store.layers] == ["fc:avg", "head:flatten"]
        assert store.X("fc").dtype == np.float16
        assert np.array_equal(store.X("head"), layers["head"])
        assert store.names[0] == "row-000000"
        assert store.y.tolist() == [""] * 4


def test_the_space_depends_on_the_numbers(tmp_path):
    other = X.copy()
    other[0, 0] += 1
    spaces = [
        FeatureStore.from_arrays(tmp_path / f"{number}.h5", values).space.key
        for number, values in enumerate([X, X.astype(np.float64), other])
    ]
    assert spaces[0] == spaces[1] != spaces[2]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"X": X[0]}, r"expected numbers of shape \(n, d\)"),
        ({"X": X.astype(str)}, r"expected numbers of shape \(n, d\)"),
        ({"X": {"a": X, "b": X[:2]}}, r"\[2, 4\] rows"),
        ({"X": np.where(X[2, 1] == X, np.nan, X)}, "Row 2 of layer"),
        ({"X": X.astype(np.float64) * 1e300}, "more than float32 can hold"),
        ({"X": X, "y": [1, 2]}, "Got 2 y for 4 rows"),
        ({"X": X, "names": ["a"]}, "Got 1 names for 4 rows"),
        ({"X": X, "names": list("abca")}, "'a' stands twice"),
        ({"X": X, "digests": np.zeros((4, 31), np.uint8)}, r"expected \(4, 32\)"),
        ({"X": X, "phashes": np.zeros(3, np.uint64)}, r"expected \(4,\)"),
        ({"X": {}}, "one number of rows"),
        ({"X": X, "y": "abcd"}, "Got str 'abcd' for y, expected a sequence of 4"),
        ({"X": X, "y": b"abcd"}, "Got bytes b'abcd' for y, expected a sequence of 4"),
        ({"X": X, "y": 1}, "Got int 1 for y, expected a sequence of 4"),
        ({"X": X, "y": np.zeros((4, 2))}, r"Got y of the shape \(4, 2\), expected a sequence of 4"),
        ({"X": X, "y": [[1], [2], [3], [4]]}, "Got y that hold lists, expected a sequence of 4"),
        ({"X": X, "names": "abcd"}, "Got str 'abcd' for names, expected a sequence of 4"),
        ({"X": X, "names": np.array([["a"], ["b"], ["c"], ["d"]])}, r"names of the shape \(4, 1\)"),
        ({"X": X, "splits": "test"}, "Got str 'test' for splits"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(path, arguments, match):
    with pytest.raises(StoreError, match=match):
        FeatureStore.from_arrays(path, **arguments)
    assert list(path.parent.iterdir()) == []


def test_an_existing_path_is_kept(path):
    FeatureStore.from_arrays(path, X).close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="exists; choose another output, or replace it with --overwrite"):
        FeatureStore.from_arrays(path, X[:2])
    assert path.read_bytes() == before
    with FeatureStore.from_arrays(path, X[:2], overwrite=True) as store:
        assert len(store) == 2


def test_sizes_and_modes_that_are_known_are_kept(path):
    fields = dict.fromkeys(("y", "names", "splits", "groups", "digests", "phashes"))
    shapes = {"widths": [1, 2, 3, 4], "heights": [5, 6, 7, 8], "modes": ["L", "RGB", "", "1"]}
    write_arrays(path, {"a": X}, **fields, **shapes, backbone="net", overwrite=False)
    with FeatureStore(path) as store:
        assert {name: getattr(store, name).tolist() for name in shapes} == shapes
        store.verify()
    with pytest.raises(StoreError, match=r"Got widths of shape \(1,\), expected \(4,\)"):
        write_arrays(path, {"a": X}, **fields, widths=[1], backbone="net", overwrite=True)


def test_those_of_imported_images_are_unknown(path):
    with FeatureStore.from_arrays(path, X) as store:
        assert store.widths.tolist() == store.heights.tolist() == [0] * 4
        assert store.modes.tolist() == [""] * 4


def test_a_foreign_file_is_not_overwritten(path):
    path.write_text("mine")
    with pytest.raises(NotAStoreError):
        FeatureStore.from_arrays(path, X, overwrite=True)
    assert path.read_text() == "mine"


def test_what_a_killed_import_left_goes(path):
    left = temporary_path(path)
    left.write_bytes(b"left")
    FeatureStore.from_arrays(path, X).close()
    assert not left.exists()
