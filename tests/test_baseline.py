import dataclasses
import inspect
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pictures import photo, png

import featx
from featx.cli import cli
from featx.errors import DatasetError, FeatxError, SourceError, UnknownNameError, WeightsError
from featx.results import check_run_folder
from featx.training.checkpoint import Checkpoint
from featx.tuningoptions import TuningOptions, parse_option

TUNING = {"epochs": 2, "lr": 1e-4, "device": "cpu", "precision": "fp32", "workers": 1}
HEADS = {"heads": ["logreg", "ridge"], "cv": 2, "jobs": 1, "learning_curve": False}
TINY = {"backbone": "featx-tiny", "device": "cpu", "precision": "fp32", "workers": 1}
RUN_FILES = {"results.json", "predictions.npz", "report.md", "report.html", "model.featx"}
BASELINE_FILES = {"finetuned.featx", "network.safetensors", "curves.json"}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def read(run):
    return json.loads((run / "results.json").read_text())


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Photos with splits, a store of them, and a run on it with a baseline."""
    root = tmp_path_factory.mktemp("baseline")
    for number, (split, count) in enumerate({"train": 8, "val": 4, "test": 6}.items()):
        for label in ("ants", "bees"):
            folder = root / "photos" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.png").write_bytes(png(photo(label, 1000 * number + index)))
    featx.extract(root / "photos", root / "x.h5", **TINY)
    told, steps = [], []
    results = featx.fit(
        root / "x.h5",
        finetune=TUNING,
        output=root / "run",
        on_results=lambda found: told.append((found, read(root / "run"), names_in(root / "run"))),
        on_progress=steps.append,
        **HEADS,
    )
    return root, results, told, steps


@pytest.fixture
def own(shared, tmp_path):
    """A copy of the photos that may be changed, with a store of its own."""
    shutil.copytree(shared[0] / "photos", tmp_path / "photos")
    featx.extract(tmp_path / "photos", tmp_path / "x.h5", **TINY)
    return tmp_path


def fit(root, **options):
    return featx.fit(root / "x.h5", **{**HEADS, "finetune": TUNING, **options})


class TestRow:
    def test_the_images_are_those_of_the_heads(self, shared):
        root, results, _, _ = shared
        heads = featx.fit(root / "x.h5", **HEADS)
        assert results.test_names == heads.test_names
        np.testing.assert_array_equal(results.truth, heads.truth)
        assert [row.kind for row in results.rows] == ["head", "head", "finetune"]
        for mine, its in zip(heads.rows, results.rows[:2], strict=True):
            assert (mine.test, mine.cv, mine.params) == (its.test, its.cv, its.params)
        assert (results.best, results.dataset) == (heads.best, heads.dataset)

    def test_it_is_that_of_finetune_alone(self, shared):
        root, results, _, _ = shared
        alone = featx.finetune(root / "photos", backbone="featx-tiny", cv=2, **TUNING)
        mine, its = results.rows[2], alone.best_row
        for field in dataclasses.fields(mine):
            if field.name not in ("seconds", "peak_memory_bytes", "energy_joules"):
                assert getattr(mine, field.name) == getattr(its, field.name), field.name
        np.testing.assert_array_equal(
            results.predictions[2].probabilities, alone.predictions[0].probabilities
        )
        assert {"extract", "fit", "predict", "load"} == set(mine.seconds)
        assert mine.seconds["load"] > 0

    def test_labels_are_those_of_the_heads(self, own, shared):
        names = [path.relative_to(own / "photos").as_posix() for path in own.glob("photos/*/*/*.png")]
        swapped = {name: "bees" if "ants" in name else "ants" for name in names}
        results = fit(own, labels=swapped)
        before = shared[1].predictions[2].probabilities
        np.testing.assert_allclose(results.predictions[2].probabilities[:, ::-1], before, atol=1e-3)
        assert np.abs(before - 0.5).min() > 2e-3

    def test_images_without_a_label_take_no_part(self, own):
        names = [path.relative_to(own / "photos").as_posix() for path in own.glob("photos/*/*/*.png")]
        results = fit(own, labels={name: name.split("/")[1] for name in names if "/0.png" not in name})
        assert (len(names), len(results.test_names)) == (36, 10)
        predicted = results.predictions[2].probabilities.argmax(axis=1)
        assert (predicted == results.truth).mean() == pytest.approx(results.rows[2].test["accuracy"].value)

    def test_comparisons_and_the_winner(self, shared):
        _, results, _, _ = shared
        assert results.best_row.kind == "head"
        pairs = {(one.a, one.b) for one in results.comparisons}
        assert pairs == {(results.best, other) for other in range(3) if other != results.best}
        for one in results.comparisons:
            a, b = (results.rows[index].test["accuracy"].value for index in (one.a, one.b))
            assert one.difference == pytest.approx(a - b)
            assert one.p_adjusted >= one.p_value

    def test_the_network_is_the_best_one_that_learned_something(self, own):
        featx.extract(own / "photos", own / "pixels.h5", backbone="pixels", image_size=8)
        results = featx.fit([own / "x.h5", own / "pixels.h5"], finetune=TUNING, **HEADS)
        assert [row.kind for row in results.rows][-1] == "finetune"
        assert results.rows[-1].backbone == "featx-tiny"
        best = max(range(4), key=lambda index: (results.rows[index].cv["mean"], -index))
        assert best > 0
        assert results.best == best
        assert {one.a for one in results.comparisons} == {best}

    def test_layer_and_preprocessing_are_those_of_the_store(self, own):
        featx.extract(
            own / "photos", own / "mid.h5", layers=["layer3:gem"], resize="squash", image_size=32, **TINY
        )
        results = featx.fit(own / "mid.h5", finetune=TUNING, **HEADS)
        assert results.rows[-1].layer == "layer3:gem"
        preprocess = results.settings["finetune"]["preprocess"]
        assert (preprocess["resize"], preprocess["image_size"]) == ("squash", 32)

    def test_a_head_on_several_layers_is_compared_with_the_whole_network(self, own):
        featx.extract(own / "photos", own / "two.h5", layers=["layer3", "avgpool"], **TINY)
        results = featx.fit(own / "two.h5", layers=["layer3+avgpool"], finetune=TUNING, **HEADS)
        assert results.rows[0].layer == "layer3:avg+avgpool:avg"
        assert results.rows[-1].layer == "avgpool:avg"


class TestRunFolder:
    def test_the_heads_come_first(self, shared):
        _, results, told, steps = shared
        (first, saved, files), (last, _, _) = told
        assert [row.kind for row in first.rows] == ["head", "head"]
        assert len(saved["rows"]) == 2
        # Only what the heads need is there by then.
        assert not files & BASELINE_FILES
        assert last.to_json() == results.to_json()
        stages = list(dict.fromkeys(step.stage for step in steps))
        assert stages.index("fit") < stages.index("decode") < stages.index("fine-tune")

    def test_it_reads_back(self, shared):
        root, results, _, _ = shared
        run = root / "run"
        assert names_in(run) == RUN_FILES | BASELINE_FILES
        data = read(run)
        assert data == json.loads(json.dumps(results.to_json()))
        assert data["rows"][2]["n_parameters"] >= data["rows"][2]["n_parameters_trained"] > 0
        with np.load(run / "predictions.npz") as saved:
            np.testing.assert_allclose(
                saved["probabilities_2"], results.predictions[2].probabilities, atol=1e-6
            )
        assert "fine-tune" in json.loads((run / "curves.json").read_text())["training"]
        report = (run / "report.md").read_text()
        assert "times the compute" in report
        assert "The fine-tuned network stands last" in report

    def test_the_model_predicts(self, shared):
        root, results, _, _ = shared
        tuned = featx.Model.load(root / "run" / "finetuned.featx")
        images = [root / "photos" / name for name in results.test_names]
        np.testing.assert_allclose(
            tuned.predict_proba(images), results.predictions[2].probabilities, atol=1e-4
        )
        head = featx.Model.load(root / "run")
        assert head.card["head"] == results.best_row.head

    def test_curves_stand_side_by_side(self, own):
        results = fit(own, output=own / "run", learning_curve=True, draws=2)
        curves = json.loads((own / "run" / "curves.json").read_text())
        assert {"learning", "training"} <= set(curves)
        assert results.curves == curves

    def test_a_later_run_of_heads_leaves_no_network(self, own):
        fit(own, output=own / "run", finetune={**TUNING, "augment": "light"})
        assert "augmented.png" in names_in(own / "run")
        fit(own, output=own / "run", finetune=False)
        assert names_in(own / "run") == RUN_FILES
        assert read(own / "run")["settings"]["finetune"] is None

    def test_finetune_keeps_off(self, shared):
        root = shared[0]
        with pytest.raises(FeatxError, match="model of `featx fit`; choose another folder"):
            featx.finetune(root / "photos", backbone="featx-tiny", output=root / "run")
        assert check_run_folder(root / "run", of="model.featx") == root / "run"


class TestInterrupted:
    @pytest.fixture
    def stopped(self, own, monkeypatch):
        """A run that was interrupted in the baseline's final training."""
        with monkeypatch.context() as patch:
            original = Checkpoint.save

            def save(self, run, state, tensors):
                original(self, run, state, tensors)
                if run == "fine-tune":
                    raise KeyboardInterrupt

            patch.setattr(Checkpoint, "save", save)
            with pytest.raises(KeyboardInterrupt):
                fit(own, output=own / "run")
        return own

    def test_the_run_of_the_heads_is_whole(self, stopped):
        run = stopped / "run"
        assert names_in(run) == RUN_FILES | {"finetuning"}
        assert [row["kind"] for row in read(run)["rows"]] == ["head", "head"]
        assert (
            "has not come to its end. The same command goes on with it if it was"
            in (run / "report.md").read_text()
        )
        images = list((stopped / "photos" / "test").rglob("*.png"))
        assert len(featx.Model.load(run).predict(images)) == len(images)

    def test_the_same_call_goes_on(self, stopped, shared):
        steps = []
        results = fit(stopped, output=stopped / "run", on_progress=steps.append)
        assert not any(step.stage.startswith("try") for step in steps)
        np.testing.assert_array_equal(
            results.predictions[2].probabilities, shared[1].predictions[2].probabilities
        )
        assert "the training was interrupted" in results.rows[2].warnings[0]
        assert names_in(stopped / "run") == RUN_FILES | BASELINE_FILES

    def test_other_options_are_told(self, stopped):
        with pytest.raises(FeatxError, match=r"another training \(epochs: 2 then, 3 now"):
            fit(stopped, output=stopped / "run", finetune={**TUNING, "epochs": 3})

    def test_other_labels_are_told(self, stopped):
        names = [path.relative_to(stopped / "photos").as_posix() for path in stopped.glob("photos/*/*/*.png")]
        swapped = {name: "bees" if "ants" in name else "ants" for name in names}
        with pytest.raises(FeatxError, match=r"another training \(images: "):
            fit(stopped, output=stopped / "run", labels=swapped)

    def test_finetune_keeps_off(self, stopped):
        # As if the next call had been killed before it had a model.
        (stopped / "run" / "model.featx").unlink()
        with pytest.raises(FeatxError, match="model of `featx fit`"):
            featx.finetune(stopped / "photos", backbone="featx-tiny", output=stopped / "run")

    def test_a_divergence_leaves_the_heads(self, own):
        arguments = ["fit", own / "x.h5", "-o", own / "run", "--head", "ridge", "--no-learning-curve"]
        arguments += ["--finetune"]
        for option in ("epochs=2", "lr=1e30", "optimizer=sgd", "device=cpu", "precision=fp32", "workers=1"):
            arguments += ["--finetune-option", option]
        done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        assert done.exit_code == 1, done.output
        assert "NaN or infinite" in done.stderr
        assert f"{own / 'run'} holds the results of the heads\n" in done.stderr
        assert "ridge" in done.stdout
        assert [row["kind"] for row in read(own / "run")["rows"]] == ["head"]
        assert "finetuning" not in names_in(own / "run")


def no_heads(monkeypatch):
    """Let every fit of a head fail: what is refused must be refused before."""
    from featx import experiment

    def fit_rows(*_, **__):
        raise AssertionError("heads were fitted")

    monkeypatch.setattr(experiment, "fit_rows", fit_rows)


class TestRefused:
    @pytest.fixture(autouse=True)
    def _before_the_heads(self, shared, monkeypatch):
        # After the shared run, which fits some.
        no_heads(monkeypatch)

    def test_a_changed_image_is_named(self, own):
        (own / "photos" / "train" / "ants" / "3.png").write_bytes(png(photo("wasps", 7)))
        with pytest.raises(SourceError, match=r"1 image is in .* not the same.*train/ants/3\.png"):
            fit(own)

    def test_missing_images_are_named(self, own):
        for number in (1, 2):
            (own / "photos" / "test" / "bees" / f"{number}.png").unlink()
        with pytest.raises(SourceError, match=r"2 images are of .*: test/bees/1\.png, test/bees/2\.png\."):
            fit(own)

    def test_a_source_that_is_gone(self, own):
        (own / "photos").rename(own / "elsewhere")
        with pytest.raises(SourceError, match=r"does not exist.* say where to with --source DIR"):
            fit(own)

    def test_imported_embeddings(self, tmp_path):
        X = np.random.default_rng(0).normal(size=(40, 3))
        featx.FeatureStore.from_arrays(tmp_path / "x.h5", X, np.tile(["a", "b"], 20))
        with pytest.raises(DatasetError, match="was imported: the network that made it"):
            fit(tmp_path)

    def test_references_alone(self, own):
        featx.extract(own / "photos", own / "pixels.h5", backbone="pixels", image_size=8)
        with pytest.raises(DatasetError, match="no network to fine-tune: every store holds a reference"):
            featx.fit(own / "pixels.h5", finetune=True, **HEADS)

    def test_weights_that_are_gone(self, own, shared):
        shutil.copy(shared[0] / "run" / "network.safetensors", own / "w.safetensors")
        featx.extract(own / "photos", own / "w.h5", weights=own / "w.safetensors", **TINY)
        (own / "w.safetensors").unlink()
        with pytest.raises(WeightsError, match=r"w\.safetensors, which are not there"):
            featx.fit(own / "w.h5", finetune=TUNING, **HEADS)

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"nested": True}, DatasetError, "leave out --nested or --finetune"),
            ({"repeats": 3}, DatasetError, "with 3 repeats"),
            ({"finetune": {"epoch": 3}}, UnknownNameError, "Did you mean 'epochs'"),
            ({"finetune": {"epochs": "3"}}, FeatxError, "Got '3' for the option epochs .* a whole number"),
            ({"finetune": {"epochs": 0}}, FeatxError, "Got 0 epochs"),
            ({"finetune": {"augment": "ligth"}}, UnknownNameError, "'light'"),
            ({"finetune": False, "source": "photos"}, DatasetError, "add --finetune"),
        ],
    )
    def test_what_cannot_be(self, shared, options, error, text):
        with pytest.raises(error, match=text):
            fit(shared[0], **options)


class TestSource:
    def test_moved_images(self, own, shared):
        (own / "photos").rename(own / "elsewhere")
        results = fit(own, source=own / "elsewhere")
        np.testing.assert_array_equal(
            results.predictions[2].probabilities, shared[1].predictions[2].probabilities
        )

    def test_a_change_that_size_and_time_do_not_tell(self, own):
        path = own / "photos" / "train" / "ants" / "3.png"
        before, data = path.stat(), bytearray(path.read_bytes())
        # In the checksum at the end: the pixels are the same, the bytes are not.
        data[-1] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(SourceError, match=r"train/ants/3\.png"):
            fit(own, output=own / "run")
        # The heads do not need the images.
        assert len(read(own / "run")["rows"]) == 2

    def test_other_weights_under_the_same_name(self, own, shared):
        shutil.copy(shared[0] / "run" / "network.safetensors", own / "w.safetensors")
        featx.extract(own / "photos", own / "w.h5", weights=own / "w.safetensors", **TINY)
        from safetensors.numpy import load_file, save_file

        tensors = load_file(own / "w.safetensors")
        save_file({name: np.asarray(value * 2) for name, value in tensors.items()}, own / "w.safetensors")
        with pytest.raises(WeightsError, match=r"not those that .* was made with"):
            featx.fit(own / "w.h5", finetune=TUNING, **HEADS)


def test_options_have_the_defaults_of_finetune():
    known = inspect.signature(featx.finetune).parameters
    for field in dataclasses.fields(TuningOptions):
        assert field.default == known[field.name].default, field.name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=5", ("epochs", 5)),
        ("lr=0.001", ("lr", 0.001)),
        ("lr=auto", ("lr", "auto")),
        ("hidden=512,64", ("hidden", [512, 64])),
        ("train-batchnorm=true", ("train_batchnorm", True)),
        ("device=cuda:1", ("device", "cuda:1")),
        ("dropout=0", ("dropout", 0)),
    ],
)
def test_options_as_text(text, expected):
    assert parse_option(text) == expected


@pytest.mark.parametrize(
    "text", ["epochs", "epochs=2.5", "epochs=true", "epoch=5", "hidden=a,b", "dropout=x"]
)
def test_options_that_are_none(text):
    with pytest.raises(FeatxError, match=r"NAME=VALUE|for the option|Unknown option"):
        parse_option(text)


class TestCommand:
    def run(self, root, *arguments):
        named = ["fit", root / "x.h5", "--head", "ridge", "--no-learning-curve", "--jobs", 1, *arguments]
        return CliRunner().invoke(cli, [str(argument) for argument in named])

    def test_the_table_is_printed_again_with_the_row(self, own):
        options = ["epochs=1", "lr=1e-4", "device=cpu", "precision=fp32", "workers=1", "unfreeze=layer4"]
        (own / "photos").rename(own / "there")
        arguments = [part for option in options for part in ("--finetune-option", option)]
        done = self.run(own, "-o", own / "run", "--finetune", "--source", own / "there", *arguments)
        assert done.exit_code == 0, done.output
        first, last = done.stdout.split("* chosen by")[:2], done.stdout.rpartition("* chosen by")[2]
        assert "finetune" not in first[0]
        assert "finetune" in first[1]
        words = " ".join(last.split())
        assert "times the compute" in words
        assert "fine-tuning stands last" in words
        assert "finetuned.featx and network.safetensors, the fine-tuned network" in done.stdout
        row = read(own / "run")["rows"][1]
        assert (row["params"]["unfreeze"], row["params"]["epochs"]) == ("layer4", 1)
        assert row["n_parameters_trained"] < row["n_parameters"]

    def test_options_without_the_baseline_are_wrong_usage(self, shared):
        done = self.run(shared[0], "--finetune-option", "epochs=2")
        assert done.exit_code == 2
        assert "of no use without --finetune" in done.stderr


def test_torch_is_not_loaded_before_the_heads_are_out(shared, tmp_path):
    code = f"""
import sys, featx
def show(results):
    print(len(results.rows), "torch" in sys.modules)
featx.fit({str(shared[0] / "x.h5")!r}, heads=["ridge"], cv=2, jobs=1, learning_curve=False,
    finetune={{**{TUNING!r}, "epochs": 1}}, on_results=show)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False", "2", "True"]
