import io
import os
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

import featx
from featx.cli import cli
from featx.store.importing import write_arrays


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def packed(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def single():
    buffer = io.BytesIO()
    np.save(buffer, np.eye(3))
    return buffer.getvalue()


def flipped():
    data = bytearray(packed(X=np.eye(20)))
    data[1000] ^= 1
    return bytes(data)


class TestArrays:
    def test_splits_and_groups_are_used(self, tmp_path):
        np.savez(tmp_path / "x.npz", X=np.eye(3), splits=["train", "val", "test"], groups=[1, 1, 2])
        run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5")
        store = featx.FeatureStore(tmp_path / "x.h5")
        assert store.splits.tolist() == ["train", "val", "test"]
        assert store.groups.tolist() == ["1", "1", "2"]

    def test_bytes_are_file_names(self, tmp_path):
        names = [b"ants/1.png", b"ants/\xff.png"]
        np.savez(tmp_path / "x.npz", X=np.eye(2), names=np.array(names), y=np.array([b"ant", b"bee"]))
        run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5")
        store = featx.FeatureStore(tmp_path / "x.h5")
        assert [os.fsencode(name) for name in store.names] == names
        assert store.y.tolist() == ["ant", "bee"]

    def test_layers_and_digests_come_back_from_an_export(self, make_photos, tmp_path):
        root = make_photos(splits={"train": 2})
        options = {
            "backbone": "featx-tiny",
            "layers": ["avgpool", "layer2.add:avg"],
            "store_dtype": "float16",
        }
        first = featx.extract(root, tmp_path / "a.h5", **options)
        run("export", tmp_path / "a.h5", "--to", "npz")
        run("import", tmp_path / "a.npz", "-o", tmp_path / "b.h5", "--backbone", "mine")
        again = featx.FeatureStore(tmp_path / "b.h5")
        assert again.space.backbone == "mine"
        assert again.layers == first.layers
        assert again.names == first.names
        np.testing.assert_array_equal(again.digests, first.digests)
        np.testing.assert_array_equal(again.phashes, first.phashes)
        for layer in first.layers:
            np.testing.assert_array_equal(again.X(layer.name), first.X(layer.name))

    def test_one_layer_keeps_its_name(self, make_photos, tmp_path):
        featx.extract(make_photos(splits={"train": 2}), tmp_path / "a.h5", backbone="featx-tiny")
        run("export", tmp_path / "a.h5", "--to", "npz")
        run("import", tmp_path / "a.npz", "-o", tmp_path / "b.h5")
        assert featx.FeatureStore(tmp_path / "b.h5").layers == featx.FeatureStore(tmp_path / "a.h5").layers

    def test_a_store_is_replaced_only_when_asked(self, tmp_path):
        np.savez(tmp_path / "x.npz", X=np.eye(3))
        run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5")
        np.savez(tmp_path / "x.npz", X=np.eye(2))
        assert "exists" in run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5", code=1).output
        run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5", "--overwrite")
        assert len(featx.FeatureStore(tmp_path / "x.h5")) == 2

    def test_nan_is_no_label(self, tmp_path):
        np.savez(tmp_path / "x.npz", X=np.eye(3), y=[1.0, np.nan, 0.0])
        run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5")
        assert featx.FeatureStore(tmp_path / "x.h5").y.tolist() == ["1.0", "", "0.0"]

    def test_an_export_comes_back(self, tmp_path):
        columns = {"splits": ["train", "test"], "groups": ["a", ""]}
        first = featx.FeatureStore.from_arrays(tmp_path / "a.h5", np.eye(2), ["x", None], **columns)
        first.export(tmp_path / "a.npz")
        run("import", tmp_path / "a.npz", "-o", tmp_path / "b.h5")
        back = featx.FeatureStore(tmp_path / "b.h5")
        for name in ("names", "y", "splits", "groups"):
            assert list(getattr(back, name)) == list(getattr(first, name))

    def test_columns_and_the_space_come_back(self, tmp_path):
        first = store_with_columns(tmp_path / "a.h5", {"precision": "bf16"})
        assert first.space.precision == "bf16"
        first.export(tmp_path / "a.npz")
        file = str(tmp_path / "a.npz")
        assert "b.h5: 1 image;" in run("import", file, "-o", tmp_path / "b.h5").stdout
        back = featx.FeatureStore(tmp_path / "b.h5")
        assert {name: values.tolist() for name, values in back.columns.items()} == COLUMNS
        assert back.records[0].columns == {name: value for name, (value,) in COLUMNS.items()}
        assert back.space.precision == "bf16"
        assert back.meta["source"] == file
        assert back.meta["request"]["imported_from"] == file
        assert back.meta["request"]["space"] == first.space.to_json()

    def test_without_a_space_the_precision_is_full(self, tmp_path):
        np.savez(tmp_path / "x.npz", X=np.eye(3))
        run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5")
        back = featx.FeatureStore(tmp_path / "x.h5")
        assert back.space.precision == "fp32"
        assert "space" not in back.meta["request"]


COLUMNS = {"site": ["a"], "": ["no name"], "a/b %\x1b[2J": [os.fsdecode(b"\xfe")]}


def store_with_columns(path, origin=None):
    write_arrays(
        path,
        {"fc:avg": np.eye(1, dtype=np.float32)},
        **dict.fromkeys(("y", "names", "splits", "groups", "digests", "phashes")),
        backbone="net",
        overwrite=False,
        columns=COLUMNS,
        origin=origin,
    )
    return featx.FeatureStore(path)


class TestErrors:
    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (single(), "is a single array, no .npz"),
            (b"", "is no .npz, or not all of it"),
            (packed(X=np.eye(9))[:200], "is no .npz, or not all of it"),
            (flipped(), "cannot be read as .npz"),
            (b"X,y\n1,2\n", "is no .npz"),
            (packed(X=np.eye(2), y=np.array(["a", None], object)), "an array y of Python objects"),
            (packed(X=np.eye(2), space=np.array("{")), "no JSON object"),
            (packed(X=np.eye(2), columns=np.array(["site"])), "has no array column:site"),
            (
                packed(X=np.eye(1), columns=np.array(["\udcff"]), **{"column:\\udcff": np.array(["a"])}),
                "The column '\\\\udcff' is no Unicode text",
            ),
            (packed(X=np.eye(2), y=np.eye(2)), "y has the shape (2, 2), expected one value"),
            (packed(X=np.eye(2), names=np.array("a")), "names has the shape ()"),
        ],
    )
    def test_are_one_line(self, tmp_path, content, text):
        (tmp_path / "x.npz").write_bytes(content)
        result = run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5", code=1)
        assert text in result.stderr
        assert "allow_pickle" not in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "x.h5").exists()

    def test_a_zip_of_something_else(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
            file.writestr("X", b"no array")
        assert "no array" in run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5", code=1).stderr

    def test_a_missing_file(self, tmp_path):
        result = run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5", code=1)
        assert "x.npz does not exist" in result.stderr

    def test_what_is_there_is_replaced_with_an_option(self, tmp_path):
        np.savez(tmp_path / "x.npz", X=np.eye(3))
        run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5")
        assert "--overwrite" in run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5", code=1).stderr


def test_info_of_an_imported_store(tmp_path):
    featx.FeatureStore.from_arrays(tmp_path / "x.h5", np.eye(3), ["a", "b", "b"])
    lines = dict(
        line.strip().split(maxsplit=1) for line in run("info", tmp_path / "x.h5").stdout.splitlines()
    )
    assert lines["input"] == "imported"
    assert lines["classes"] == "a 1, b 2"
