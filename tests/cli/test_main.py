import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import featx
from featx.cli import cli

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(cli.commands)


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def photos(make_photos):
    return make_photos(splits={"train": 8, "test": 4})


@pytest.fixture
def store(photos, tmp_path):
    path = tmp_path / "x.h5"
    featx.extract(photos, path, backbone="pixels", image_size=8)
    return path


@pytest.fixture
def folder(store, tmp_path):
    featx.fit(store, heads=["logreg"], cv=3, jobs=1, learning_curve=False, output=tmp_path / "run")
    return tmp_path / "run"


class TestHelp:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_and_option_is_described(self, name):
        command = cli.commands[name]
        assert command.help
        assert command.short_help
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name not in ("help", "folder"):
                assert parameter.help, f"{name} {parameter.opts}"
        assert all(len(line) <= 80 for line in run(name, "--help").output.splitlines())

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_stands_in_the_readme(self, name):
        assert f"featx {name}" in (ROOT / "README.md").read_text()

    def test_without_a_command(self):
        result = CliRunner().invoke(cli, [])
        assert "extract" in result.output
        assert "demo" in result.output

    def test_help_loads_no_torch(self):
        code = "import sys; from featx.cli import cli; cli.main(['--help'], standalone_mode=False); "
        code += "print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"


class TestExitCodes:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["extrakt"], "Did you mean extract"),
            (["extract"], "Missing argument"),
            (["extract", ".", "-o", "x.h5", "--bakbone", "pixels"], "--backbone"),
            (["extract", ".", "-o", "x.h5", "--batch-size", "many"], "neither a whole number nor auto"),
            (["extract", ".", "-o", "x.h5", "--precision", "fp8"], "bf16"),
        ],
    )
    def test_wrong_usage_is_two(self, arguments, text):
        assert text in run(*arguments, code=2).output

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["extract", "no-such-folder", "-o", "x.h5", "--backbone", "pixels"], "does not exist"),
            (["fit", "no-such.h5"], "no-such.h5"),
            (["predict", "no-such.featx", "."], "does not exist"),
            (["layers", "resnet5O"], "resnet50"),
            (["report", "no-such-run"], "no-such-run"),
            (["info", "no-such"], "no-such"),
        ],
    )
    def test_a_featx_error_is_one_line_and_one(self, arguments, text):
        result = run(*arguments, code=1)
        assert text in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert "Traceback" not in result.output


class TestJson:
    def test_stdout_is_one_object_and_nothing_else(self, photos, tmp_path):
        store, folder = tmp_path / "y.h5", tmp_path / "run"
        found = {
            "extract": run("extract", photos, "-o", store, "--backbone", "pixels", "--json"),
            "fit": run("fit", store, "-o", folder, "--head", "logreg", "--cv", 3, "--json"),
            "predict": run("predict", folder, photos / "test", "-o", tmp_path / "p.csv", "--json"),
            "info": run("info", store, "--json"),
            "verify": run("verify", store, "--json"),
            "report": run("report", folder, "--json"),
            "export": run("export", store, "-o", tmp_path / "e.npz", "--json"),
            "backbones": run("backbones", "--json"),
            "layers": run("layers", "featx-tiny", "--json"),
        }
        data = {name: json.loads(result.stdout) for name, result in found.items()}
        assert data["extract"]["computed"] == 24
        assert data["fit"]["rows"][0]["head"] == "logreg"
        assert data["predict"]["images"] == 8
        assert data["info"]["classes"] == {"ants": 12, "bees": 12}
        assert data["verify"]["ok"] is True
        assert "resnet50" in data["backbones"]["backbones"]
        assert data["layers"]["nodes"][-1]["share"] == pytest.approx(1)


class TestCommands:
    def test_extract_says_what_it_did(self, photos, tmp_path):
        (photos / "train" / "ants" / "zzz.gif").write_bytes(b"gone")
        result = run("extract", photos, "-o", tmp_path / "x.h5", "--backbone", "pixels")
        assert "24 images, 2 classes, pixels" in result.stdout
        assert "24 computed, 0 reused, 1 skipped" in result.stdout
        assert "train/ants/zzz.gif: not an image" in result.stdout
        assert "24 reused" in run("extract", photos, "-o", tmp_path / "x.h5", "--backbone", "pixels").stdout

    def test_fit_prints_a_table_and_writes_the_run(self, store, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = run("fit", store.name, "-o", "run", "--cv", 3)
        for name in ("logreg", "linear-svm", "rbf-svm"):
            assert name in result.stdout
        assert max(len(line) for line in result.stdout.splitlines()) <= 80
        assert json.loads((tmp_path / "run" / "results.json").read_text())["command"].startswith("featx")

    def test_predict_writes_csv_and_json_lines(self, folder, photos, tmp_path):
        lines = run("predict", folder, photos / "test", "--top", 2).stdout.splitlines()
        assert lines[0] == "name,label,probability,label_2,probability_2,error"
        assert len(lines) == 9
        assert lines[1].startswith(("ants/000.png,ants,", "ants/000.png,bees,"))
        run("predict", folder, photos / "test", "-o", tmp_path / "p.jsonl")
        rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
        assert [row["name"] for row in rows] == [line.split(",")[0] for line in lines[1:]]
        assert {row["label"] for row in rows} <= {"ants", "bees"}

    def test_classify(self, photos):
        lines = run("classify", photos / "test", "--backbone", "featx-tiny", "--top", 3).stdout.splitlines()
        assert len(lines) == 9
        probabilities = [float(cell) for cell in lines[1].split(",")[2:7:2]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1

    def test_info_of_a_store_a_run_and_a_model(self, store, folder):
        text = run("info", store).stdout
        assert "ants 12, bees 12" in text
        assert "flatten:flatten (192)" in text
        assert "logreg" in run("info", folder).stdout
        model = run("info", folder / "model.featx").stdout
        assert "ants, bees" in model
        assert "accuracy" in model

    def test_verify_finds_a_flipped_bit(self, store):
        assert "whole" in run("verify", store).stdout
        data = bytearray(store.read_bytes())
        data[len(data) // 2] ^= 1
        store.write_bytes(data)
        assert str(store) in run("verify", store, code=1).stderr.replace("\n", "")

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            (["-o", "q.csv"], "q.csv"),
            (["-o", "q.CSV", "--to", "csv"], "q.CSV"),
            (["-o", "new/q.npz"], "new/q.npz"),
            (["-o", "q", "--to", "csv"], "q.csv"),
            (["-o", "q.v2", "--to", "csv"], "q.v2.csv"),
            (["-o", "q"], "q.npz"),
            ([], "x.npz"),
            (["--to", "csv"], "x.csv"),
        ],
    )
    def test_the_ending_decides(self, store, monkeypatch, options, name):
        monkeypatch.chdir(store.parent)
        assert run("export", store.name, *options).stdout == f"{name}\n"
        assert Path(name).read_bytes().startswith(b"name," if name.lower().endswith("csv") else b"PK")

    def test_two_formats_are_wrong_usage(self, store, tmp_path):
        result = run("export", store, "-o", tmp_path / "q.npz", "--to", "csv", code=2)
        assert "q.npz ends in .npz, and --to asks for csv" in result.stderr.replace("\n", "")
        assert not (tmp_path / "q.npz").exists()
        assert "'.txt'" in run("export", store, "-o", tmp_path / "q.txt", code=1).stderr

    def test_an_export_that_is_there_is_replaced_with_an_option(self, store, tmp_path):
        run("export", store)
        assert "--overwrite" in run("export", store, code=1).stderr
        run("export", store, "--overwrite")

    def test_export_and_import(self, store, tmp_path):
        run("export", store, "-o", tmp_path / "e.csv", "--to", "csv")
        assert len((tmp_path / "e.csv").read_text().splitlines()) == 25
        opened = featx.FeatureStore(store)
        np.savez(
            tmp_path / "mine.npz", X=opened.X("flatten"), y=opened.y.astype(str), names=np.array(opened.names)
        )
        assert "24 images" in run("import", tmp_path / "mine.npz", "-o", tmp_path / "back.h5").stdout
        back = featx.FeatureStore(tmp_path / "back.h5")
        np.testing.assert_array_equal(back.X("imported"), opened.X("flatten"))
        assert back.names == opened.names
        np.savez(tmp_path / "bad.npz", Y=np.eye(2))
        assert "no array X" in run("import", tmp_path / "bad.npz", "-o", tmp_path / "bad.h5", code=1).stderr

    def test_report_again(self, folder):
        (folder / "report.html").unlink()
        assert "report.html" in run("report", folder).stdout.replace("\n", "")
        assert (folder / "report.html").stat().st_size > 1000

    def test_backbones_and_layers(self):
        assert run("backbones", "squeeze").stdout.split() == ["squeezenet1_0", "squeezenet1_1"]
        text = run("layers", "squeezenet1_1").stdout
        assert "features.12.cat" in text
        assert "512" in text
        assert "No backbone" in run("backbones", "qqq", code=1).stderr


@pytest.mark.parametrize(
    ("command", "kept"), [("extract", "; what was finished is kept\n"), ("export", " again\n")]
)
def test_a_full_disk_keeps_what_an_extraction_finished(store, photos, monkeypatch, tmp_path, command, kept):
    arguments = {"extract": [photos, "-o", tmp_path / "y.h5", "--backbone", "pixels"], "export": [store]}

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    result = run(command, *arguments[command], code=1)
    assert "then run the same command again" in result.stderr
    assert result.stderr.endswith(kept)
    assert result.stderr.count("\n") == 1


def test_an_error_is_no_command_to_the_terminal():
    assert "no\\x1b[2Jsuch" in run("info", "no\x1b[2Jsuch", code=1).stderr


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("module", ["click", "featx.cli.group", "rich"])
def test_a_signal_while_it_loads_is_no_traceback(name, code, module):
    program = f"""
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.{name})
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
sys.argv = ["featx", "info", "no-such"] if {module!r} != "rich" else ["featx", "verify", "no-such"]
from featx.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_the_launcher_is_featx():
    done = subprocess.run(
        [sys.executable, "cli.py", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == f"featx, version {featx.__version__}\n"


class TestPredictions:
    def test_replace_earlier_ones_and_nothing_else(self, folder, photos, store, tmp_path):
        run("predict", folder, photos / "test", "-o", tmp_path / "p.csv")
        run("predict", folder, photos / "test", "-o", tmp_path / "p.csv", "--top", 2)
        assert (tmp_path / "p.csv").read_text().startswith("name,label,probability,label_2")
        before = store.read_bytes()
        for other in (store, folder / "model.featx", tmp_path):
            result = run("predict", folder, photos / "test", "-o", other, code=1)
            assert "choose another file" in result.stderr or "is a folder" in result.stderr
        assert store.read_bytes() == before

    def test_an_error_comes_before_any_output(self, folder, tmp_path):
        result = run("predict", folder, tmp_path / "nothing", code=1)
        assert result.stdout == ""

    def test_no_usable_image_is_an_error(self, folder, tmp_path):
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "a.png").write_bytes(b"x")
        result = run("predict", folder, tmp_path / "bad", code=1)
        assert result.stdout.splitlines()[1].startswith('a.png,,,"not an image')
        assert "None of the 1 images" in result.stderr


def test_published_weights_name_a_preprocessing(photos, tmp_path):
    options = ["--backbone", "squeezenet1_1", "--weights", "none", "--image-size", 64]
    run(
        "extract", photos, "-o", tmp_path / "a.h5", *options, "--preprocess", "ResNet50_Weights.IMAGENET1K_V2"
    )
    assert featx.FeatureStore(tmp_path / "a.h5").space.preprocess["resize_size"] == round(232 * 64 / 224)
    result = run(
        "extract", photos, "-o", tmp_path / "b.h5", *options, "--preprocess", "IMAGENET1K_V9", code=1
    )
    assert "Unknown preprocessing record" in result.stderr
