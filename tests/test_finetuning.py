import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from pictures import photo, png
from training_models import recipe, tiny_classifier

import featx
from featx.backbones.trainable import load_trainable
from featx.errors import (
    DatasetError,
    FeatxError,
    ModelFileError,
    TooManySkippedError,
    TrainingError,
    UnknownNameError,
    WeightsError,
)
from featx.finetuned import fine_tune_plan
from featx.heads import tune
from featx.images.sources import list_images, open_source
from featx.protocol import make_plan
from featx.training import baseline
from featx.training.classifier import fold_head
from featx.training.feeds import ImageFeed
from featx.training.loop import embed_rows, train
from featx.training.pixels import load_images

TINY = {"backbone": "featx-tiny", "device": "cpu", "precision": "fp32", "workers": 1}
QUICK = {**TINY, "epochs": 2, "lr": 1e-4, "cv": 2}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameters_of(run):
    from safetensors.numpy import load_file

    return load_file(run / "network.safetensors")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Photos with splits, and a run on them."""
    root = tmp_path_factory.mktemp("finetuning")
    for number, (split, count) in enumerate({"train": 8, "val": 4, "test": 4}.items()):
        for label in ("ants", "bees"):
            folder = root / "photos" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.png").write_bytes(png(photo(label, 1000 * number + index)))
    steps = []
    results = featx.finetune(
        root / "photos", output=root / "run", command="featx finetune", on_progress=steps.append, **QUICK
    )
    return root, results, steps


class TestResults:
    def test_a_row_as_any_other(self, shared):
        _, results, _ = shared
        row = results.best_row
        assert (row.kind, row.head, row.backbone, row.layer) == (
            "finetune",
            "finetune",
            "featx-tiny",
            "avgpool:avg",
        )
        assert set(row.params) == {"epochs", "lr", "unfreeze", "init", "augment"}
        assert 1 <= row.params["epochs"] <= 2
        assert row.cv["folds"] == [row.cv["mean"]]
        assert row.cv["sd"] is None
        assert row.test["accuracy"].low <= row.test["accuracy"].value <= row.test["accuracy"].high
        assert row.seconds["extract"] == 0
        assert row.seconds["fit"] > 0
        network = load_trainable("featx-tiny")
        assert row.n_parameters_trained == sum(p.numel() for p in network.parameters()) + 256 * 2 + 2
        # Eight of each class to learn from, four to tune: only the tuning images have predictions.
        assert (results.predictions[0].out_of_fold >= 0).sum() == 8
        assert results.dataset["splits"]["tuning"] == 8

    def test_the_images_and_scores_are_those_of_the_heads(self, shared, tmp_path):
        root, results, _ = shared
        featx.extract(root / "photos", tmp_path / "x.h5", backbone="pixels", image_size=8)
        heads = featx.fit(tmp_path / "x.h5", heads=["logreg"], jobs=1, learning_curve=False)
        assert results.test_names == heads.test_names
        np.testing.assert_array_equal(results.truth, heads.truth)
        for key in ("n_images", "classes", "counts", "splits", "unlabelled", "notes", "skipped", "audit"):
            assert results.dataset[key] == heads.dataset[key], key
        assert list(results.best_row.test) == list(heads.best_row.test)

    def test_a_hold_out_is_that_of_the_heads(self, make_photos, tmp_path):
        root = make_photos(splits={"": 10})
        featx.extract(root, tmp_path / "x.h5", backbone="pixels", image_size=8)
        heads = featx.fit(
            tmp_path / "x.h5", heads=["logreg"], jobs=1, learning_curve=False, cv=2, seed=4, test_size=0.3
        )
        results = featx.finetune(root, **{**QUICK, "epochs": 1}, seed=4, test_size=0.3)
        assert results.test_names == heads.test_names
        assert results.dataset["splits"] == heads.dataset["splits"]
        assert any("chosen on one fold of 7" in text for text in results.best_row.warnings)

    def test_the_run_folder_reads_back(self, shared):
        root, results, _ = shared
        names = {path.name for path in (root / "run").iterdir()}
        assert names == {
            "results.json",
            "predictions.npz",
            "report.md",
            "report.html",
            "network.safetensors",
            "model.featx",
            "curves.json",
        }
        data = json.loads((root / "run" / "results.json").read_text())
        assert data == json.loads(json.dumps(results.to_json()))
        assert data["rows"][0]["kind"] == "finetune"
        with np.load(root / "run" / "predictions.npz") as saved:
            np.testing.assert_allclose(
                saved["probabilities_0"], results.predictions[0].probabilities, atol=1e-6
            )
        assert "fine-tun" in (root / "run" / "report.md").read_text()

    def test_the_network_embeds_as_weights(self, shared, tmp_path):
        root, results, _ = shared
        run = root / "run"
        store = featx.extract(
            root / "photos",
            tmp_path / "tuned.h5",
            backbone="featx-tiny",
            weights=run / "network.safetensors",
            precision="fp32",
            device="cpu",
            store_dtype="float32",
        )
        plain = featx.extract(
            root / "photos",
            tmp_path / "plain.h5",
            backbone="featx-tiny",
            precision="fp32",
            device="cpu",
            store_dtype="float32",
        )
        assert store.space.preprocess == results.settings["preprocess"] == plain.space.preprocess
        assert store.X("avgpool").shape == (32, 256)
        assert not np.allclose(store.X("avgpool"), plain.X("avgpool"))
        network = load_trainable("featx-tiny", weights=run / "network.safetensors", precision="fp32")
        for name, value in network.named_parameters():
            np.testing.assert_array_equal(
                value.detach(), parameters_of(run)[name.removeprefix("_module.")], err_msg=name
            )

    def test_progress(self, shared):
        _, results, steps = shared
        stages = list(dict.fromkeys(step.stage for step in steps))
        assert stages == ["decode", "try rate 0.0001", "fine-tune"]
        epochs = results.best_row.params["epochs"]
        # 24 images in two batches an epoch.
        assert [(s.done, s.total) for s in steps if s.stage == "fine-tune"] == [
            (12 * batch, 24 * epochs) for batch in range(2 * epochs + 1)
        ]
        notes = [step.note for step in steps if step.stage.startswith("try")]
        assert notes[0] == "epoch 1/2"
        assert "loss" in notes[-1]
        assert "on tuning images" in notes[-1]


class TestHonesty:
    def test_one_seed_gives_one_result(self, shared, tmp_path):
        root, first, _ = shared
        again = featx.finetune(root / "photos", output=tmp_path / "run", **QUICK)
        np.testing.assert_array_equal(again.predictions[0].probabilities, first.predictions[0].probabilities)
        assert (again.best_row.params, again.best_row.cv) == (first.best_row.params, first.best_row.cv)
        before, after = parameters_of(root / "run"), parameters_of(tmp_path / "run")
        assert all(np.array_equal(before[name], after[name]) for name in before)

    def test_test_images_take_no_part(self, shared, tmp_path):
        root, first, _ = shared
        shutil.copytree(root / "photos", tmp_path / "photos")
        for index, path in enumerate((tmp_path / "photos" / "test").rglob("*.png")):
            path.write_bytes(png(photo("wasps", 5000 + index)))
        changed = featx.finetune(tmp_path / "photos", output=tmp_path / "run", **QUICK)
        assert not np.allclose(changed.predictions[0].probabilities, first.predictions[0].probabilities)
        before, after = parameters_of(root / "run"), parameters_of(tmp_path / "run")
        assert all(np.array_equal(before[name], after[name]) for name in before)

    def test_shuffled_labels_teach_nothing(self, tmp_path):
        rng = np.random.default_rng(0)
        for split, count in (("train", 24), ("test", 40)):
            for index, label in enumerate(rng.permutation(["a", "b"] * (count // 2))):
                folder = tmp_path / "shuffled" / split / label
                folder.mkdir(parents=True, exist_ok=True)
                kind = ("ants", "bees")[index % 2]
                (folder / f"{index}.png").write_bytes(png(photo(kind, 100 * count + index)))
        row = featx.finetune(tmp_path / "shuffled", **{**QUICK, "lr": 1e-12, "epochs": 1}).best_row
        assert row.cv["mean"] < 0.8  # a head that had seen the tuning images would know them by heart
        score = featx.finetune(tmp_path / "shuffled", **QUICK).best_row.test["accuracy"]
        assert score.low <= 0.5 <= score.high

    def test_training_starts_as_the_head_that_fit_finds(self, shared, tmp_path):
        root, _, _ = shared
        featx.extract(
            root / "photos",
            tmp_path / "x.h5",
            backbone="featx-tiny",
            precision="fp32",
            device="cpu",
            store_dtype="float32",
        )
        head = (
            featx.fit(tmp_path / "x.h5", heads=["logreg"], jobs=1, learning_curve=False)
            .predictions[0]
            .probabilities
        )
        still = {**QUICK, "epochs": 1, "lr": 1e-12}
        warm = featx.finetune(root / "photos", **still).predictions[0].probabilities
        np.testing.assert_allclose(warm, head, atol=1e-4)
        random = featx.finetune(root / "photos", **still, init="random").predictions[0].probabilities
        assert np.abs(random - head).max() > 0.01

    def test_the_search_leaves_no_trace(self, shared, tmp_path):
        root, _, _ = shared
        options = {**QUICK, "epochs": 3, "lr": "auto"}
        row = featx.finetune(root / "photos", output=tmp_path / "run", **options).best_row
        model = tiny_classifier()
        source = open_source(root / "photos")
        data = load_images(source, list_images(source), model.network.preprocess, workers=1, max_skip=0.1)
        rows = np.flatnonzero(data.splits != "test")
        codes = (data.labels[rows] == "bees").astype(np.intp)
        folds = [(np.flatnonzero(data.splits[rows] == "train"), np.flatnonzero(data.splits[rows] == "val"))]
        embeddings = embed_rows(model, data.pixels, rows, 16)
        model.set_layers(fold_head(tune("logreg", embeddings, codes, cv=folds).best_estimator_))
        same = recipe(3, row.params["lr"], 16)
        train(model, ImageFeed(data.pixels), rows, codes, same, stop_after=row.params["epochs"])
        saved = parameters_of(tmp_path / "run")
        for name, value in model.network.named_parameters():
            np.testing.assert_array_equal(value.detach(), saved[name.removeprefix("_module.")])

    def test_a_skipped_image_is_listed(self, make_photos):
        root = make_photos(splits={"train": 10, "test": 4})
        (root / "train" / "ants" / "broken.png").write_bytes(b"no image")
        results = featx.finetune(root, **{**QUICK, "epochs": 1})
        assert [item["name"] for item in results.dataset["skipped"]] == ["train/ants/broken.png"]
        assert results.dataset["n_images"] == 28
        with pytest.raises(TooManySkippedError, match=r"broken\.png"):
            featx.finetune(root, **QUICK, max_skip=0.0)


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"backbone": "featx-tinny"}, UnknownNameError, "'featx-tiny'"),
            ({"weights": "no-such.pth"}, WeightsError, "no-such"),
            ({"layer": "layer44"}, UnknownNameError, "layer4"),
            ({"init": "haed"}, UnknownNameError, "'head'"),
            ({"augment": "ligth"}, UnknownNameError, "'light'"),
            ({"epochs": 0}, FeatxError, "at least 1"),
            ({"lr": -1.0}, FeatxError, "above 0, or auto"),
            ({"lr": "fast"}, FeatxError, "above 0, or auto"),
            ({"batch_size": 0}, FeatxError, "at least 1, or auto"),
            ({"test_size": 0.2}, DatasetError, "test split"),
            ({"optimizer": "adam"}, UnknownNameError, "'adamw'"),
            ({"hidden": (8, 0)}, FeatxError, "0 neurons in a hidden layer, expected at least 1"),
            ({"dropout": 1.0}, FeatxError, "from 0 to below 1"),
            ({"layer_decay": 0.0}, FeatxError, "above 0, up to 1"),
            ({"repeats": 0}, FeatxError, "at least 1"),
            ({"resume": True}, FeatxError, "give the folder of the training"),
        ],
    )
    def test_options(self, shared, options, error, text):
        with pytest.raises(error, match=text):
            featx.finetune(shared[0] / "photos", **{**QUICK, **options})

    def test_images_without_labels(self, tmp_path):
        (tmp_path / "flat").mkdir()
        (tmp_path / "flat" / "a.png").write_bytes(png(photo("ants", 0)))
        with pytest.raises(DatasetError, match="None of the 1 images has a label"):
            featx.finetune(tmp_path / "flat", **QUICK)

    def test_the_folder_of_a_model_is_left_alone(self, shared, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "results.json").write_text("{}")
        (tmp_path / "run" / "model.featx").write_bytes(b"a model")
        with pytest.raises(FeatxError, match="choose another folder"):
            featx.finetune(shared[0] / "photos", output=tmp_path / "run", **QUICK)
        assert (tmp_path / "run" / "model.featx").read_bytes() == b"a model"


class TestModel:
    @pytest.mark.parametrize("hidden", [(), (16, 8)])
    def test_the_file_alone_predicts_as_the_trained_network(self, shared, tmp_path, hidden):
        root, results, _ = shared
        run = root / "run"
        if hidden:
            run = tmp_path / "run"
            results = featx.finetune(root / "photos", output=run, hidden=hidden, dropout=0.1, **QUICK)
        shutil.copy(run / "model.featx", tmp_path / "alone.featx")
        model = featx.Model.load(tmp_path / "alone.featx")
        images = [root / "photos" / name for name in results.test_names]
        found = model.predict_proba(images)
        np.testing.assert_allclose(found, results.predictions[0].probabilities, atol=1e-5)
        assert model.classes_.tolist() == ["ants", "bees"]
        kind = "MLPClassifier" if hidden else "LogisticRegression"
        assert type(model.estimator_).__name__ == type(results.estimator).__name__ == kind
        assert model.card["n_images"] == 24
        assert model.card["test"]["accuracy"]["value"] == results.best_row.test["accuracy"].value

    def test_other_weights_are_refused(self, shared, tmp_path):
        root, _, _ = shared
        model = featx.Model.load(root / "run", weights=root / "run" / "network.safetensors")
        image = next((root / "photos" / "test").rglob("*.png"))
        assert model.predict([image]).shape == (1,)
        other = load_trainable("featx-tiny").to_safetensors()
        (tmp_path / "other.safetensors").write_bytes(other)
        with pytest.raises(ModelFileError, match="trained on other embeddings"):
            featx.Model.load(root / "run", weights=tmp_path / "other.safetensors").predict([image])

    def test_a_damaged_network(self, shared, tmp_path):
        root, _, _ = shared
        with zipfile.ZipFile(root / "run" / "model.featx") as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        for name, data, text in (
            ("short", members["network.safetensors"][:100], "holds a network that cannot be read"),
            ("absent", None, "damaged"),
        ):
            with zipfile.ZipFile(tmp_path / f"{name}.featx", "w") as archive:
                for member, content in (members | {"network.safetensors": data}).items():
                    if content is not None:
                        archive.writestr(member, content)
            image = next((root / "photos" / "test").rglob("*.png"))
            with pytest.raises(ModelFileError, match=text):
                featx.Model.load(tmp_path / f"{name}.featx").predict([image])


class Killed(Exception):
    """In place of a kill."""


def die_at(stage, done):
    def on_progress(step):
        if step.stage == stage and step.done >= done:
            raise Killed

    return on_progress


class TestResume:
    @pytest.mark.parametrize(("stage", "done"), [("try rate 0.0001", 28), ("fine-tune", 24)])
    def test_gives_what_an_uninterrupted_run_gives(self, shared, tmp_path, stage, done):
        root, first, _ = shared
        run = tmp_path / "run"
        with pytest.raises(Killed):
            featx.finetune(root / "photos", output=run, on_progress=die_at(stage, done), **QUICK)
        assert {path.name.partition("-")[0] for path in run.iterdir()} == {"checkpoint", "checkpoint.json"}
        with pytest.raises(FeatxError, match="not finished: go on with --resume"):
            featx.finetune(root / "photos", output=run, **QUICK)
        with pytest.raises(FeatxError, match=r"another training \(epochs: 2 then, 3 now\)"):
            featx.finetune(root / "photos", output=run, resume=True, **{**QUICK, "epochs": 3})
        with pytest.raises(FeatxError, match="unfinished training of `featx finetune`"):
            featx.results.check_run_folder(run, of="model.featx")
        again = featx.finetune(root / "photos", output=run, resume=True, **QUICK)
        np.testing.assert_array_equal(again.predictions[0].probabilities, first.predictions[0].probabilities)
        before, after = parameters_of(root / "run"), parameters_of(run)
        assert all(np.array_equal(before[name], after[name]) for name in before)
        assert not list(run.glob("checkpoint*"))
        assert same_curves(run, root / "run")

    def test_other_images_are_refused(self, shared, tmp_path):
        root, _, _ = shared
        shutil.copytree(root / "photos", tmp_path / "photos")
        with pytest.raises(Killed):
            featx.finetune(
                tmp_path / "photos", output=tmp_path / "run", on_progress=die_at("fine-tune", 1), **QUICK
            )
        (tmp_path / "photos" / "train" / "ants" / "0.png").write_bytes(png(photo("ants", 77)))
        with pytest.raises(FeatxError, match=r"another training \(images: "):
            featx.finetune(tmp_path / "photos", output=tmp_path / "run", resume=True, **QUICK)

    def test_repeats_that_were_done_stay_done(self, shared, tmp_path):
        root, first, _ = shared
        run, options = tmp_path / "run", {**QUICK, "repeats": 3}
        with pytest.raises(Killed):
            featx.finetune(
                root / "photos", output=run, on_progress=die_at("fine-tune, seed 1", 20), **options
            )
        steps = []
        results = featx.finetune(
            root / "photos", output=run, resume=True, on_progress=steps.append, **options
        )
        assert not any(step.stage == "fine-tune, seed 2" for step in steps)
        assert [one["seed"] for one in results.settings["repeats"]] == [2, 1, 0]
        # The row is that of a single run.
        np.testing.assert_array_equal(
            results.predictions[0].probabilities, first.predictions[0].probabilities
        )
        last = results.settings["repeats"][-1]["accuracy"]
        assert last == results.best_row.test["accuracy"].value
        assert any("test accuracy over 3 seeds" in text for text in results.best_row.warnings)

    def test_what_was_learned_before_a_loss_that_is_no_number(self, shared, tmp_path, monkeypatch):
        root, _, _ = shared
        run = tmp_path / "run"

        def diverge(model, *arguments, **options):
            raise TrainingError("The loss became nan.")

        with monkeypatch.context() as patch:
            patch.setattr(baseline, "train", diverge)
            with pytest.raises(TrainingError, match=r"nan\. The weights of the last good epoch are in"):
                featx.finetune(root / "photos", output=run, **QUICK)
        assert [path.name for path in run.iterdir()] == ["network-last-good.safetensors"]
        load_trainable("featx-tiny", weights=run / "network-last-good.safetensors")
        featx.finetune(root / "photos", output=run, **QUICK)
        assert not (run / "network-last-good.safetensors").exists()


def same_curves(first, second):
    curves = [json.loads((run / "curves.json").read_text())["training"] for run in (first, second)]
    for curve in (entry for one in curves for entry in one.values()):
        for epoch in curve:
            epoch["seconds"] = 0
    return curves[0] == curves[1]


class TestOptions:
    def test_two_phases(self, shared):
        root, _, _ = shared
        steps = []
        row = featx.finetune(
            root / "photos", **QUICK, init="random", head_epochs=3, on_progress=steps.append
        ).best_row
        stages = list(dict.fromkeys(step.stage for step in steps))
        assert stages == ["decode", "head, tuning", "try rate 0.0001", "head", "fine-tune"]
        assert row.params["head_epochs"] == 3
        assert max(step.done for step in steps if step.stage == "head") == 3 * 24

    def test_the_classifier_learns_alone_in_the_first_phase(self, shared, tmp_path):
        """With a rate that changes nothing, the second phase leaves the network as it came."""
        root, _, _ = shared
        still = {**QUICK, "epochs": 1, "lr": 1e-12, "init": "random", "output": tmp_path / "run"}
        bare = featx.finetune(root / "photos", **{**still, "output": None}).predictions[0].probabilities
        taught = featx.finetune(root / "photos", **still, head_epochs=5, augment="light")
        assert np.abs(taught.predictions[0].probabilities - bare).max() > 0.01
        for name, value in load_trainable("featx-tiny").named_parameters():
            saved = parameters_of(tmp_path / "run")[name.removeprefix("_module.")]
            np.testing.assert_allclose(saved, value.detach(), atol=1e-9)
        assert (tmp_path / "run" / "augmented.png").exists()
        featx.finetune(root / "photos", **still)
        assert not (tmp_path / "run" / "augmented.png").exists()

    def test_what_is_not_as_usual_stands_in_the_row(self, shared):
        root, _, _ = shared
        options = {"optimizer": "sgd", "layer_decay": 0.7, "label_smoothing": 0.1, "balanced": True}
        options |= {"hidden": (8,), "dropout": 0.2}
        row = featx.finetune(root / "photos", **{**QUICK, "epochs": 1}, **options).best_row
        assert {name: row.params[name] for name in options} == options | {"hidden": [8]}
        assert row.n_parameters == row.n_parameters_trained
        frozen = featx.finetune(root / "photos", **{**QUICK, "epochs": 1}, unfreeze="last:2").best_row
        assert frozen.n_parameters_trained < frozen.n_parameters
        assert frozen.energy_joules is None or frozen.energy_joules > 0

    def test_a_plan_of_somebody_else(self, shared):
        root, first, _ = shared
        network = load_trainable("featx-tiny", device="cpu", precision="fp32")
        source = open_source(root / "photos")
        data = load_images(source, list_images(source), network.preprocess, workers=1, max_skip=0.1)
        plan = make_plan(data, cv=2, test_size=None, seed=0)
        tuned = fine_tune_plan(
            network, data.pixels, plan, recipe(2, 1e-4, 16, patience=4), (1e-4,), backbone="featx-tiny"
        )
        np.testing.assert_array_equal(tuned.predictions.probabilities, first.predictions[0].probabilities)
        assert tuned.row.test == first.best_row.test
        assert tuned.row.params == first.best_row.params
