from __future__ import annotations

import csv
import errno
import json
import os
import sys
import time

import numpy as np
import pytest

from featx.errors import StoreError, UnknownNameError
from featx.files import temporary_path
from featx.records import ImageRecord
from featx.store.reader import FeatureStore
from featx.store.schema import IndexRow


def test_npz_holds_everything_and_needs_no_pickle(kit, path, tmp_path):
    kit.awkward_store(path)
    with FeatureStore(path) as store:
        out = store.export(tmp_path / "out.npz")
        with np.load(out, allow_pickle=False) as data:
            assert data["names"].tolist() == store.names
            assert data["y"].tolist() == store.y.tolist()
            assert data["splits"].tolist() == store.splits.tolist()
            assert data["groups"].tolist() == store.groups.tolist()
            assert np.array_equal(data["digests"], store.digests)
            assert np.array_equal(data["phashes"], store.phashes)
            assert np.array_equal(data["widths"], store.widths)
            assert np.array_equal(data["heights"], store.heights)
            assert data["modes"].tolist() == store.modes.tolist() == kit.shapes(range(6))["modes"]
            assert store.widths.tolist() == kit.shapes(range(6))["widths"]
            assert data["layers"].tolist() == ["layer4.1:avg", "classifier.4:flatten"]
            assert data["X:layer4.1:avg"].dtype == np.float16
            assert np.array_equal(data["X:classifier.4:flatten"], kit.expected(range(6), kit.flat))
            assert json.loads(str(data["space"])) == store.space.to_json()
            assert data["skipped_names"].tolist() == [item.name for item in store.skipped]
            assert data["skipped_reasons"].tolist() == ["no image", "cannot be read"]
            assert data["columns"].tolist() == list(store.columns)
            assert data["column:camera/left %"].tolist() == [f"v{number}" for number in range(6)]
            for name in store.columns:
                assert data[f"column:{name}"].tolist() == store.columns[name].tolist()


def test_npz_goes_round_into_a_store(kit, path, tmp_path):
    kit.store(path, layers=[kit.avg])
    with FeatureStore(path) as store:
        store.export(tmp_path / "out.npz")
        with np.load(tmp_path / "out.npz") as data:
            again = FeatureStore.from_arrays(
                tmp_path / "again.h5", data["X"], data["y"], data["names"], digests=data["digests"]
            )
        assert again.names == store.names
        assert again.y.tolist() == store.y.tolist()
        assert np.array_equal(again.digests, store.digests)
        assert np.array_equal(again.X("imported"), store.X("layer4.1"))
        again.verify()


def test_csv_brings_the_same_numbers_back(kit, path, tmp_path):
    kit.awkward_store(path)
    with FeatureStore(path) as store:
        out = store.export(tmp_path / "out.csv")
        with out.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            head, *rows = csv.reader(file)
        assert head[:5] == ["name", "label", "split", "group", "digest"]
        assert head[5:8] == list(store.columns)
        assert head[8:10] == ["layer4.1:avg[0]", "layer4.1:avg[1]"]
        assert len(head) == 8 + 5 + 3
        assert [row[4] for row in rows] == [digest.tobytes().hex() for digest in store.digests]
        for place, values in enumerate(store.columns.values(), 5):
            assert [row[place] for row in rows] == values.tolist()
        assert [row[0] for row in rows] == store.names
        assert [row[1] for row in rows] == store.y.tolist()
        assert np.array_equal(np.array([row[8:13] for row in rows], np.float16), store.X("layer4.1"))
        assert b"caf\xe9" in out.read_bytes()


def test_many_rows_are_written_in_blocks(tmp_path):
    X = np.random.default_rng(0).normal(size=(2500, 2)).astype(np.float32)
    store = FeatureStore.from_arrays(tmp_path / "many.h5", X)
    store.export(tmp_path / "many.csv")
    back = np.loadtxt(tmp_path / "many.csv", delimiter=",", skiprows=1, usecols=(5, 6), dtype=np.float32)
    assert np.array_equal(back, X)


def test_parquet_has_the_same_rows(kit, path, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    kit.awkward_store(path)
    with FeatureStore(path) as store:
        table = parquet.read_table(store.export(tmp_path / "out.parquet"))
        assert table["label"].to_pylist() == store.y.tolist()
        assert table["name"].to_pylist()[:3] == store.names[:3]
        assert "\\udce9" in table["name"].to_pylist()[3]
        assert table["digest"].to_pylist() == [digest.tobytes().hex() for digest in store.digests]
        assert table["camera/left %"].to_pylist() == [f"v{number}" for number in range(6)]
        assert np.array_equal(np.array(table["layer4.1:avg"].to_pylist(), np.float16), store.X("layer4.1"))


def test_parquet_without_pyarrow_says_what_to_install(kit, path, tmp_path, monkeypatch):
    kit.store(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with FeatureStore(path) as store, pytest.raises(StoreError, match=r"pip install featx\[parquet\]"):
        store.export(tmp_path / "out.parquet")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_other_formats_and_existing_files_are_refused(kit, path, tmp_path):
    kit.store(path)
    with FeatureStore(path) as store:
        with pytest.raises(UnknownNameError, match=r"'\.npx'.*'\.npz'"):
            store.export(tmp_path / "out.npx")
        (tmp_path / "out.csv").write_text("mine")
        with pytest.raises(StoreError, match="exists; choose another output, or replace it with --overwrite"):
            store.export(tmp_path / "out.csv")
        assert (tmp_path / "out.csv").read_text() == "mine"
        store.export(tmp_path / "out.csv", overwrite=True)
        assert (tmp_path / "out.csv").read_text().startswith("name,")


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
def test_a_full_disk_leaves_no_half_file(kit, path, tmp_path, monkeypatch, suffix):
    kit.store(path)

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with FeatureStore(path) as store:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StoreError, match="No space left"):
            store.export(tmp_path / f"out{suffix}")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_column_gives_way_to_a_name_of_ours(kit, path, tmp_path):
    values = {name: name for name in ("label", "column:label", "layer4.1:avg[0]", "other")}
    images = [IndexRow(ImageRecord("a.jpg", columns=values), kit.digest(0))]
    with kit.writer(path, [kit.avg]) as writer:
        writer.add(*kit.rows([0], [kit.avg]))
        writer.finish(images, [], {})
    with FeatureStore(path) as store:
        text = store.export(tmp_path / "out.csv").read_text()
    head, row = csv.reader(text.splitlines())
    assert len(set(head)) == len(head) == 5 + 4 + 5
    found = dict(zip(head, row, strict=True))
    assert found["label"] == ""
    assert found["column:label"] == "column:label"
    assert found["column:column:label"] == "label"
    assert found["column:layer4.1:avg[0]"] == "layer4.1:avg[0]"
    assert found["other"] == "other"


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_missing_folders_are_made(kit, path, tmp_path, suffix):
    kit.store(path)
    with FeatureStore(path) as store:
        assert store.export(tmp_path / "new" / "er" / f"out{suffix}").is_file()


def test_what_a_killed_export_left_goes_after_a_day(kit, path, tmp_path):
    kit.store(path)
    target = tmp_path / "out.npz"
    old, new, other = (temporary_path(name) for name in (target, target, tmp_path / "out2.npz"))
    mine = tmp_path / "out.npz.mine.tmp"
    for left in (old, new, other, mine):
        left.write_bytes(b"left")
    for left in (old, other, mine):
        os.utime(left, (0, time.time() - 2 * 86400))
    with FeatureStore(path) as store:
        store.export(target)
    assert [left.exists() for left in (old, new, other, mine)] == [False, True, True, True]


def test_what_a_killed_export_to_a_store_left_goes_at_once(kit, path, tmp_path):
    kit.store(path)
    left = temporary_path(tmp_path / "out.h5")
    left.write_bytes(b"left")
    with FeatureStore(path) as store:
        store.export(tmp_path / "out.h5")
    assert not left.exists()


def test_the_store_itself_is_no_output(kit, path):
    kit.store(path)
    with FeatureStore(path) as store, pytest.raises(StoreError, match="is the store itself"):
        store.export(path)


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
def test_a_full_disk_promises_nothing(kit, path, tmp_path, monkeypatch, suffix):
    kit.store(path)

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with FeatureStore(path) as store:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StoreError, match=r"then run the same command again$") as caught:
            store.export(tmp_path / f"out{suffix}")
    assert "kept" not in str(caught.value)
    assert "resumed" not in str(caught.value)
