import io
import json
import shutil
from contextlib import redirect_stderr

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pictures import photo, png

import featx
from featx.backbones.network import load_network
from featx.backbones.trainable import load_trainable
from featx.cli import cli
from featx.errors import (
    BackboneError,
    DatasetError,
    FeatxError,
    SourceError,
    TooManySkippedError,
    TrainingError,
    UnknownNameError,
    WeightsError,
)
from featx.heads import tune
from featx.images.sources import list_images, open_source
from featx.training import pixels as pixels_module
from featx.training.augmentation import augmenter
from featx.training.classifier import Classifier, fold_head
from featx.training.loop import Recipe, embed_rows, predict_proba, train
from featx.training.pixels import load_images
from featx.training.search import choose_recipe

TINY = {"backbone": "featx-tiny", "device": "cpu", "precision": "fp32", "workers": 1}
QUICK = {**TINY, "epochs": 2, "lr": 1e-4, "cv": 2}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(n, seed=0, side=64):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def tiny_classifier(n_classes=2, **options):
    return Classifier(load_trainable("featx-tiny", device="cpu", precision="fp32", **options), n_classes, 0)


def parameters_of(run):
    from safetensors.numpy import load_file

    return load_file(run / "network.safetensors")


class TestNetwork:
    @pytest.mark.parametrize("backbone", ["featx-tiny", "squeezenet1_1", "vit_b_32"])
    def test_gives_the_embeddings_of_the_frozen_one(self, backbone):
        options = {
            "weights": "default" if backbone == "featx-tiny" else "none",
            "device": "cpu",
            "precision": "fp32",
            "seed": 3,
        }
        network = load_trainable(backbone, **options)
        frozen = load_network(backbone, **options)
        images = noise(2, side=network.preprocess.image_size)
        with torch.no_grad():
            rows = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(rows, frozen.embed(images)[network.layer.name], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("unfreeze", "trained"),
        [
            ("last:3", {"layer4.bn2", "layer4.shortcut.0", "layer4.shortcut.1"}),
            ("layer4.conv2", {"layer4.conv2", "layer4.bn2", "layer4.shortcut.0", "layer4.shortcut.1"}),
            ("last:1", {"layer4.shortcut.1"}),
        ],
    )
    def test_unfreezes_the_end_only(self, unfreeze, trained):
        network = load_trainable("featx-tiny", unfreeze=unfreeze, device="cpu")
        names = {
            name.removeprefix("_module.").rpartition(".")[0]
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        assert names == trained

    def test_all_unfreezes_every_parameter(self):
        assert all(parameter.requires_grad for parameter in load_trainable("featx-tiny").parameters())

    @pytest.mark.parametrize("train_batchnorm", [False, True])
    def test_batchnorm_learns_statistics_only_when_asked_and_unfrozen(self, train_batchnorm):
        network = load_trainable("featx-tiny", unfreeze="layer4", train_batchnorm=train_batchnorm)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        network.train()
        network(torch.from_numpy(noise(4)).permute(0, 3, 1, 2))
        changed = {name for name, value in network.state_dict().items() if not before[name].equal(value)}
        assert any("running_mean" in name for name in changed) == train_batchnorm
        assert all(name.startswith("_module.layer4.") for name in changed)

    @pytest.mark.parametrize(
        ("unfreeze", "error", "text"),
        [
            ("layer9", UnknownNameError, "'layer4"),
            ("last:0", BackboneError, "K from 1 to"),
            ("last:many", BackboneError, "last:K with K"),
            ("last:999", BackboneError, "K from 1 to"),
            ("avgpool", BackboneError, "unfreeze an earlier node"),
        ],
    )
    def test_what_cannot_be_unfrozen(self, unfreeze, error, text):
        with pytest.raises(error, match=text):
            load_trainable("featx-tiny", unfreeze=unfreeze)

    def test_pixels_have_nothing_to_train(self):
        with pytest.raises(BackboneError, match="nothing to fine-tune"):
            load_trainable("pixels")

    def test_fp16_is_refused(self):
        with pytest.raises(BackboneError, match="expected auto, fp32 or bf16"):
            load_trainable("featx-tiny", precision="fp16")


class TestWarmStart:
    @pytest.mark.parametrize("n_classes", [2, 3])
    def test_step_0_predicts_as_the_head(self, n_classes):
        images, rows = noise(24), np.arange(24)
        model = tiny_classifier(n_classes)
        embeddings = embed_rows(model, images, rows, 8)
        labels = np.array(["a", "b", "c"])[rows % n_classes]
        head = tune("logreg", embeddings, labels, cv=3).best_estimator_
        model.set_linear(*fold_head(head))
        np.testing.assert_allclose(
            predict_proba(model, images, rows, 8), head.predict_proba(embeddings), atol=1e-5
        )


class TestTraining:
    def test_overfits_twelve_images_of_noise(self):
        images, rows = noise(12), np.arange(12)
        codes = rows % 2
        model = tiny_classifier()
        train(model, images, rows, codes, Recipe(epochs=12, lr=1e-3, batch_size=6, augment="none", seed=0))
        assert (predict_proba(model, images, rows, 12).argmax(axis=1) == codes).all()

    def test_the_frozen_part_stays_bit_for_bit(self):
        images, rows = noise(8), np.arange(8)
        model = tiny_classifier(unfreeze="last:2", train_batchnorm=True)
        before = {name: value.clone() for name, value in model.network.state_dict().items()}
        train(model, images, rows, rows % 2, Recipe(2, 1e-2, 4, "none", 0))
        trained = ("_module.layer4.shortcut.0.", "_module.layer4.shortcut.1.")
        for name, value in model.network.state_dict().items():
            assert value.equal(before[name]) != name.startswith(trained), name

    def test_a_stopped_schedule_is_the_beginning_of_the_whole(self):
        images, rows = noise(8), np.arange(8)
        states = []
        for stop_after in (None, 2):
            model = tiny_classifier()

            def keep(epoch, model=model):
                if epoch == 2:
                    states.append(model.linear.weight.clone())

            recipe = Recipe(3, 1e-3, 4, "light", 5)
            train(model, images, rows, rows % 2, recipe, stop_after=stop_after, on_epoch=keep)
        assert states[0].equal(states[1])

    def test_leaves_the_generator_of_torch_as_it_was(self):
        torch.manual_seed(11)
        expected = torch.rand(3)
        torch.manual_seed(11)
        train(tiny_classifier(), noise(4), np.arange(4), np.arange(4) % 2, Recipe(1, 1e-3, 4, "light", 0))
        assert torch.rand(3).equal(expected)

    def test_a_loss_that_is_no_number_stops(self):
        rows = np.arange(8)
        with pytest.raises(TrainingError, match=r"in epoch \d+ at a learning rate of 1e\+30; choose a small"):
            train(tiny_classifier(), noise(8), rows, rows % 2, Recipe(3, 1e30, 4, "none", 0))

    def test_a_rate_that_diverges_is_left_out(self):
        rows = np.arange(8)
        part = (rows, rows % 2)
        recipe = Recipe(2, 1e-3, 4, "none", 0)
        trial = choose_recipe(tiny_classifier(), noise(8), part, part, recipe, (1e-3, 1e30))
        assert trial.recipe.lr == 1e-3
        assert "1 of 2 learning rates diverged" in trial.warnings
        with pytest.raises(TrainingError, match="choose a smaller"):
            choose_recipe(tiny_classifier(), noise(8), part, part, recipe, (1e30,))

    def test_the_best_epoch_of_the_best_rate_is_chosen(self):
        images, rows = noise(12), np.arange(12)
        part = (rows, rows % 2)
        seen = []
        trial = choose_recipe(
            tiny_classifier(),
            images,
            part,
            part,
            Recipe(8, 0.0, 6, "none", 0),
            (1e-6, 1e-3),
            on_progress=seen.append,
        )
        assert trial.recipe.lr == 1e-3
        assert trial.accuracy == 1.0
        assert [step.done for step in seen] == [*range(9)] * 2
        assert {step.unit for step in seen} == {"epochs"}


class TestAugmentation:
    def test_changes_each_image_by_itself(self):
        record = load_trainable("featx-tiny").preprocess
        images = torch.from_numpy(np.repeat(noise(1), 3, axis=0)).permute(0, 3, 1, 2)
        torch.manual_seed(0)
        changed = augmenter("light", record)(images)
        assert changed.shape == images.shape
        assert changed.dtype == torch.uint8
        assert not changed[0].equal(images[0])
        assert not changed[0].equal(changed[1])
        assert augmenter("none", record)(images) is images

    def test_an_unknown_name(self):
        with pytest.raises(UnknownNameError, match="'light'"):
            augmenter("lihgt", load_trainable("featx-tiny").preprocess)


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
        assert [(s.done, s.total) for s in steps if s.stage == "fine-tune"] == [
            (epoch, epochs) for epoch in range(epochs + 1)
        ]


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
        model.set_linear(*fold_head(tune("logreg", embeddings, codes, cv=folds).best_estimator_))
        recipe = Recipe(3, row.params["lr"], 16, "none", 0)
        train(model, data.pixels, rows, codes, recipe, stop_after=row.params["epochs"])
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

    def test_more_images_than_memory(self, shared, monkeypatch):
        monkeypatch.setattr(pixels_module, "memory_bytes", lambda: 500_000)
        with pytest.raises(SourceError, match=r"32 images of 64×64 pixels take .* fewer images"):
            featx.finetune(shared[0] / "photos", **QUICK)

    def test_the_folder_of_a_model_is_left_alone(self, shared, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "results.json").write_text("{}")
        (tmp_path / "run" / "model.featx").write_bytes(b"a model")
        with pytest.raises(FeatxError, match="choose another folder"):
            featx.finetune(shared[0] / "photos", output=tmp_path / "run", **QUICK)
        assert (tmp_path / "run" / "model.featx").read_bytes() == b"a model"


class TestCommand:
    def test_prints_one_json_object(self, shared, tmp_path):
        arguments = [
            "finetune",
            str(shared[0] / "photos"),
            *("--backbone", "featx-tiny", "--epochs", "1", "--lr", "1e-4", "--unfreeze", "last:2"),
            *("--device", "cpu", "-o", str(tmp_path / "run"), "--json"),
        ]
        with redirect_stderr(io.StringIO()):
            done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        data = json.loads(done.stdout)
        assert data["rows"][0]["params"]["unfreeze"] == "last:2"
        assert data["run"] == str(tmp_path / "run")
        saved = json.loads((tmp_path / "run" / "results.json").read_text())
        assert {key: value for key, value in data.items() if key != "run"} == saved

    @pytest.mark.parametrize(("rate", "text"), [("fast", "neither a number nor auto"), ("0", "above 0")])
    def test_a_wrong_rate_is_wrong_usage(self, rate, text):
        done = CliRunner().invoke(cli, ["finetune", ".", "--lr", rate])
        assert done.exit_code == 2
        assert text in done.output
