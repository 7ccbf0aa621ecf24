import json

import numpy as np
import pytest
from click.testing import CliRunner

import featx
from featx.cli import cli


@pytest.fixture
def store(tmp_path):
    X = np.random.default_rng(0).normal(size=(40, 3))
    return featx.FeatureStore.from_arrays(tmp_path / "x.h5", X, np.tile(["a", "b"], 20)).path


class TestNumbers:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("fit", "x.h5"),
            ("finetune", "photos"),
            ("extract", "photos", "-o", "x.h5"),
            ("demo",),
        ],
    )
    @pytest.mark.parametrize("seed", [-1, 2**32])
    def test_a_seed_out_of_range_is_wrong_usage(self, arguments, seed):
        done = CliRunner().invoke(cli, [*arguments, "--seed", str(seed)])
        assert done.exit_code == 2
        assert "0<=x<=4294967295" in done.stderr

    def test_no_jobs_are_wrong_usage(self, store):
        done = CliRunner().invoke(cli, ["fit", str(store), "--jobs", "0"])
        assert done.exit_code == 2
        assert "0 threads compute nothing" in done.stderr


def test_notes_are_printed(store, tmp_path):
    rows = [f"row-{row:06},{'xy'[row % 2]}" for row in range(40)]
    (tmp_path / "labels.csv").write_text("\n".join(["name,label", *rows, "gone,x"]))
    arguments = ["fit", store, "--labels", tmp_path / "labels.csv", "-o", tmp_path / "run"]
    arguments += ["--head", "logreg", "--cv", 3, "--jobs", 1]
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    note = "1 of 41 names in the CSV are no image of the store, such as gone"
    assert f"note: {note}" in done.stdout.splitlines()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["dataset"]["notes"] == [note]


class TestProtocols:
    @pytest.fixture
    def many(self, tmp_path):
        rng = np.random.default_rng(0)
        y = np.tile(["a", "b"], 40)
        X = rng.normal(size=(80, 4)) + 1.5 * (y[:, None] == "b")
        return featx.FeatureStore.from_arrays(tmp_path / "many.h5", X, y).path

    def fit(self, store, *arguments):
        named = ["--head", "ridge", "--cv", "3", "--jobs", "1", "--draws", "3"]
        return CliRunner().invoke(cli, ["fit", str(store), *named, *map(str, arguments)])

    def test_every_flag_reaches_the_run(self, many, tmp_path):
        run = tmp_path / "run"
        done = self.fit(many, "-o", run, "--nested", "--outer-folds", 4, "--repeats", 2, "--shots", "1,4,99")
        assert done.exit_code == 0, done.output
        settings = json.loads((run / "results.json").read_text())["settings"]
        wanted = {"outer_folds": 4, "repeats": 2, "shots": [1, 4, 99], "draws": 3, "learning_curve": True}
        assert {name: settings[name] for name in wanted} == wanted
        lines = done.stdout.splitlines()
        assert any("wice the labels (160) would bring" in line for line in lines)
        assert any(line.startswith("note: 99 shots are left out") for line in lines)
        assert any(line.startswith("note: over 2 seeds (0 to 1)") for line in lines)
        assert lines[-2].endswith("curves.json, learning and few-shot curves")

    def test_json_holds_the_curves(self, many, tmp_path):
        done = self.fit(many, "-o", tmp_path / "run", "--json")
        data = json.loads(done.stdout)
        assert data["curves"] == json.loads((tmp_path / "run" / "curves.json").read_text())

    def test_no_curve(self, many, tmp_path):
        done = self.fit(many, "-o", tmp_path / "run", "--no-learning-curve")
        assert done.stdout.splitlines()[-2].endswith("predictions.npz, model.featx")
        assert not (tmp_path / "run" / "curves.json").exists()

    @pytest.mark.parametrize(
        ("arguments", "code", "text"),
        [
            (["--shots", "1,x"], 1, "expected numbers of images per class such as 1,5,10,20,50"),
            (["--outer-folds", "4"], 1, "add --nested"),
            (["--nested", "--test-size", "0.2"], 1, "leave out --test-size or --nested"),
            (["--draws", "1"], 2, "x>=2"),
            (["--repeats", "0"], 2, "x>=1"),
        ],
    )
    def test_what_cannot_be(self, many, arguments, code, text):
        done = self.fit(many, *arguments)
        assert done.exit_code == code
        assert text in (done.stderr if code == 2 else str(done.exception) + done.stderr)
