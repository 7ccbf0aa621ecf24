import os

import numpy as np
import pytest

import featx
from featx import files
from featx.errors import FeatxError, StoreError
from featx.results import check_run_folder


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.tile(["a", "b"], 20)
    store = featx.FeatureStore.from_arrays(tmp_path_factory.mktemp("store") / "x.h5", X, y)
    return featx.fit(store, heads=["logreg"], cv=3, jobs=1, learning_curve=False)


def stop_before(name, monkeypatch):
    """Let the disk fail when the file of this name is to get it."""
    replace = os.replace

    def failing(source, target):
        if os.path.basename(target) == name:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", failing)


class TestSave:
    def test_old_results_never_stand_beside_new_predictions(self, results, tmp_path, monkeypatch):
        results.save(tmp_path)
        stop_before("results.json", monkeypatch)
        with pytest.raises(StoreError, match="Input/output"):
            results.save(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]
        monkeypatch.undo()
        assert check_run_folder(tmp_path) == tmp_path

    def test_results_that_cannot_be_written_leave_the_old_ones(self, results, tmp_path, monkeypatch):
        results.save(tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        monkeypatch.setattr(files.os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StoreError, match="No space left"):
            results.save(tmp_path)
        monkeypatch.undo()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class TestCheckRunFolder:
    @pytest.mark.parametrize(
        "names",
        [
            [],
            ["results.json", "notes.txt"],
            ["predictions.npz"],
            ["predictions.npz", f"results.json.{'0' * 32}.tmp"],
            [f"predictions.npz.{'f' * 32}.tmp", "report.md", "report.html"],
            ["predictions.npz", "network.safetensors"],
        ],
    )
    def test_a_killed_run_is_a_run(self, tmp_path, names):
        for name in names:
            (tmp_path / name).touch()
        assert check_run_folder(tmp_path) == tmp_path

    @pytest.mark.parametrize(
        "names",
        [
            ["predictions.npz", "thesis.tex"],
            ["thesis.tmp"],
            [f"thesis.tex.{'0' * 32}.tmp"],
            ["results.json.backup.tmp"],
            ["model.featx"],
        ],
    )
    def test_anything_else_is_refused(self, tmp_path, names):
        for name in names:
            (tmp_path / name).touch()
        with pytest.raises(FeatxError, match="no run folder"):
            check_run_folder(tmp_path)

    def test_a_folder_to_be_made(self, tmp_path, monkeypatch):
        assert check_run_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
        monkeypatch.chdir(tmp_path)
        assert str(check_run_folder("run")) == "run"

    @pytest.mark.parametrize("place", ["file", "file/run", "file/a/b"])
    def test_below_a_file(self, tmp_path, place):
        (tmp_path / "file").touch()
        with pytest.raises(FeatxError, match="file is a file; choose another folder"):
            check_run_folder(tmp_path / place)

    @pytest.mark.parametrize("place", ["locked", "locked/run"])
    def test_where_nothing_can_be_written(self, tmp_path, place, monkeypatch):
        (tmp_path / "locked").mkdir()
        # Asked and not tried: for root, every folder can be written to.
        monkeypatch.setattr(os, "access", lambda path, mode: os.path.basename(path) != "locked")
        with pytest.raises(FeatxError, match="locked cannot be written to"):
            check_run_folder(tmp_path / place)
