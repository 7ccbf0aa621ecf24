from __future__ import annotations

import numpy as np
import pytest

import featx
from featx import winner
from featx.store.reader import FeatureStore


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 6)).astype(np.float32), np.repeat(["a", "b"], 30)
    X[:, 2] *= 20
    X[30:, 2] += 30
    return FeatureStore.from_arrays(tmp_path / "x.h5", X, y)


def places_of(store, tmp_path, **options):
    featx.fit(store, heads="logreg", cv=3, learning_curve=False, output=tmp_path / "run", **options)
    with np.load(tmp_path / "run" / "predictions.npz") as arrays:
        return arrays["names"].tolist(), arrays["map"]


def test_the_first_axis_of_the_map_is_the_widest(store, tmp_path):
    names, places = places_of(store, tmp_path)
    assert places.shape == (15, 2)
    assert places.dtype == np.float32
    rows = [list(store.names).index(name.decode()) for name in names]
    widest = store.take(store.layers[0].name, np.array(rows))
    assert abs(np.corrcoef(places[:, 0], widest[:, 2])[0, 1]) > 0.99
    np.testing.assert_allclose(places.mean(axis=0), 0, atol=1e-4)


def test_only_so_many_are_placed(store, tmp_path, monkeypatch):
    monkeypatch.setattr(winner, "MOST_ON_MAP", 5)
    _, places = places_of(store, tmp_path)
    assert np.isfinite(places).all(axis=1).sum() == 5


def test_one_dimension_has_no_map(tmp_path):
    X = np.r_[np.zeros(20), np.ones(20)][:, None].astype(np.float32)
    store = FeatureStore.from_arrays(tmp_path / "x.h5", X, ["a"] * 20 + ["b"] * 20)
    featx.fit(store, heads="logreg", cv=3, learning_curve=False, output=tmp_path / "run")
    with np.load(tmp_path / "run" / "predictions.npz") as arrays:
        assert "map" not in arrays.files


def test_the_digest_of_a_set_knows_bytes_and_labels_but_no_order(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32), np.repeat(["a", "b"], 20)

    def digest(key, X, y, names):
        store = FeatureStore.from_arrays(tmp_path / f"{key}.h5", X, y, names)
        found = featx.fit(store, heads="logreg", cv=3, learning_curve=False)
        return found.dataset["digest"]

    names = [f"{i}.png" for i in range(40)]
    first = digest("first", X, y, names)
    assert digest("turned", X[::-1], y[::-1], names[::-1]) == first
    relabelled = y.copy()
    relabelled[0] = "b"
    assert digest("relabelled", X, relabelled, names) != first
    assert digest("renamed", X, y, ["x.png", *names[1:]]) != first
