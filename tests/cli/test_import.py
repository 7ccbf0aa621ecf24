import io
import os
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

import featx
from featx.cli import cli


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


class TestErrors:
    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (single(), "is a single array, no .npz"),
            (b"", "cannot be read as .npz"),
            (packed(X=np.eye(9))[:200], "cannot be read as .npz"),
            (flipped(), "cannot be read as .npz"),
            (b"X,y\n1,2\n", "cannot be read as .npz"),
            (packed(X=np.eye(2), y=np.eye(2)), "y has the shape (2, 2), expected one value"),
            (packed(X=np.eye(2), names=np.array("a")), "names has the shape ()"),
        ],
    )
    def test_are_one_line(self, tmp_path, content, text):
        (tmp_path / "x.npz").write_bytes(content)
        result = run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5", code=1)
        assert text in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "x.h5").exists()

    def test_a_zip_of_something_else(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
            file.writestr("X", b"no array")
        assert "expected" in run("import", tmp_path / "x.npz", "-o", tmp_path / "x.h5", code=1).stderr


def test_info_of_an_imported_store(tmp_path):
    featx.FeatureStore.from_arrays(tmp_path / "x.h5", np.eye(3), ["a", "b", "b"])
    lines = dict(
        line.strip().split(maxsplit=1) for line in run("info", tmp_path / "x.h5").stdout.splitlines()
    )
    assert lines["input"] == "imported"
    assert lines["classes"] == "a 1, b 2"
