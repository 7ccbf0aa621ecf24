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
