import io
import json
from contextlib import redirect_stderr

import pytest
from click.testing import CliRunner

from featx.cli import cli


def invoke(*arguments):
    with redirect_stderr(io.StringIO()):
        return CliRunner().invoke(cli, ["finetune", *map(str, arguments)])


QUICK = ("--backbone", "featx-tiny", "--epochs", "1", "--lr", "1e-4", "--device", "cpu", "--cv", "2")


def test_prints_one_json_object(make_photos, tmp_path):
    done = invoke(make_photos(), *QUICK, "--unfreeze", "last:2", "-o", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["rows"][0]["params"]["unfreeze"] == "last:2"
    assert data["run"] == str(tmp_path / "run")


def test_every_option_reaches_the_training(make_photos, tmp_path):
    options = {
        "--hidden": "8,4",
        "--dropout": 0.2,
        "--head-epochs": 1,
        "--optimizer": "sgd",
        "--layer-decay": 0.5,
        "--label-smoothing": 0.1,
        "--augment": "light",
        "--init": "random",
    }
    pairs = [part for pair in options.items() for part in pair]
    run = tmp_path / "run"
    more = ("--balanced", "--repeats", "2", "--patience", "0", "--compile", "off", "--resume")
    done = invoke(make_photos(), *QUICK, *pairs, *more, "-o", run, "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    params = data["rows"][0]["params"]
    found = {f"--{name.replace('_', '-')}": value for name, value in params.items()}
    assert found.items() >= (options | {"--hidden": [8, 4], "--balanced": True}).items()
    assert [one["seed"] for one in data["settings"]["repeats"]] == [1, 0]
    assert data["settings"]["patience"] == 0
    assert (run / "augmented.png").exists()


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--hidden", "512;512", "no list of whole numbers, such as 512,512"),
        ("--hidden", "0", "width of less than 1"),
        ("--dropout", "1", "0<=x<1"),
        ("--layer-decay", "0", "0<x<=1"),
        ("--lr", "fast", "neither a number nor auto"),
        ("--lr", "-1", "no number above 0"),
    ],
)
def test_wrong_usage(tmp_path, option, value, text):
    done = invoke(tmp_path, option, value)
    assert done.exit_code == 2
    assert text in done.output
