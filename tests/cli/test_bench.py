import json

import pytest
from click.testing import CliRunner

from featx.cli import cli

QUICK = ["--backbone", "pixels", "--device", "cpu", "--seconds", "0.02", "--images", "4"]


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, ["bench", *(str(argument) for argument in arguments)])
    assert result.exit_code == code, result.output
    return result


def test_the_table_and_the_sentence():
    lines = run(*QUICK, "--batch-size", 3, "--workers", 1).stdout.splitlines()
    assert lines[0].startswith("pixels, fp32 on cpu (")
    assert lines[0].endswith("; batches of 3, 1 workers; 4 synthetic JPEGs of 500×375")
    table = [
        line for line in lines if line.startswith(("decode only", "network only", "bound", "end to end"))
    ]
    assert len(table) == 4
    assert table[3].split()[-4].endswith("%")
    assert all(len(line) <= 80 for line in lines[1:-1])
    assert lines[-1].endswith(".")


def test_json_is_one_object_and_the_table_goes_to_stderr(make_photos):
    root = make_photos(splits={"train": 3})
    (root / "train" / "ants" / "bad.png").write_bytes(b"gone")
    result = run(root, *QUICK, "--images", 99, "--json")
    data = json.loads(result.stdout)
    assert (data["images"], data["skipped"], data["workers"] >= 1) == (6, 1, True)
    decode = data["cores"] * data["decode_per_core"]
    expected = 1 / (1 / data["network_per_second"] + 1 / decode)
    assert data["bound_per_second"] == pytest.approx(expected)
    assert data["share"] == pytest.approx(data["end_to_end_per_second"] / expected)
    assert data["sentence"] in result.stderr
    assert "1 of 7 images cannot be used" in result.stderr


def test_options_reach_the_network():
    options = ["--backbone", "squeezenet1_1", "--weights", "none", "--image-size", 32, "--precision", "fp32"]
    options += ["--layer", "features.3", "--batch-size", 1, "--images", 1]
    data = json.loads(run(*QUICK, *options, "--json").stdout)
    assert (data["backbone"], data["precision"], data["batch_size"]) == ("squeezenet1_1", "fp32", 1)


def test_errors_are_one_line():
    assert "Did you mean 'pixels'" in run("--backbone", "pixel", code=1).stderr
    assert "does not exist" in run("no-such-folder", *QUICK, code=1).stderr
    assert "Invalid value for '--seconds'" in run("--seconds", "0", code=2).stderr
