import json
import subprocess
import sys

import numpy as np
import pytest

import featx
from featx import experiment
from featx.errors import DatasetError, FeatxError, StoreError, UnknownNameError
from featx.heads.catalog import find_head

QUICK = {"heads": ["logreg"], "cv": 3, "jobs": 1, "learning_curve": False}


def arrays(seed=0, n=60, d=6, distance=2.0):
    rng = np.random.default_rng(seed)
    y = np.tile(["ant", "bee", "wasp"], n // 3)
    X = rng.normal(size=(n, d)) + distance * (y[:, None] == ["ant", "bee", "wasp"]) @ np.eye(3, d)
    return X, y, np.repeat(["train", "test"], [2 * n // 3, n // 3])


@pytest.fixture
def store(tmp_path):
    X, y, splits = arrays()
    return featx.FeatureStore.from_arrays(tmp_path / "x.h5", X, y, splits=splits).path


def without_times(results):
    data = json.loads(json.dumps(results.to_json()))
    data.pop("created")
    for row in data["rows"]:
        row.pop("seconds")
        row.pop("peak_memory_bytes")
    return data


class TestNumbers:
    def test_the_scores_are_those_of_scikit_learn(self, store):
        results = featx.fit(store, **QUICK)
        X, y, _ = arrays()
        predicted = results.estimator.predict(X[40:].astype(np.float32))
        assert results.best_row.test["accuracy"].value == pytest.approx((predicted == y[40:]).mean())
        assert results.predictions[0].probabilities.shape == (20, 3)
        assert [results.dataset["classes"][code] for code in results.truth] == y[40:].tolist()
        assert results.test_names == tuple(f"row-{row:06}" for row in range(40, 60))

    def test_one_seed_gives_one_result_whatever_the_threads(self, store):
        options = {**QUICK, "heads": ["logreg", "linear-svm", "rbf-svm"]}
        first = featx.fit(store, **options)
        second = featx.fit(store, **{**options, "jobs": 2})
        assert without_times(first) == without_times(second)

    def test_test_rows_take_no_part_in_any_choice(self, tmp_path):
        X, y, splits = arrays(distance=0.7)
        changed = X.copy()
        changed[40:] = np.random.default_rng(9).normal(size=(20, 6)) * 50
        options = {**QUICK, "heads": ["logreg", "rbf-svm"]}
        found = []
        for name, values in (("a", X), ("b", changed)):
            path = featx.FeatureStore.from_arrays(tmp_path / f"{name}.h5", values, y, splits=splits).path
            found.append(featx.fit(path, **options))
        one, other = found
        assert [row.params for row in one.rows] == [row.params for row in other.rows]
        assert [row.cv for row in one.rows] == [row.cv for row in other.rows]
        assert one.best == other.best
        assert one.best_row.test != other.best_row.test

    def test_the_winner_is_chosen_by_cross_validation(self, store):
        results = featx.fit(
            store, heads=["rbf-svm", "logreg", "linear-svm"], cv=3, jobs=1, learning_curve=False
        )
        means = [row.cv["mean"] for row in results.rows]
        assert results.best == means.index(max(means))
        assert [comparison.a for comparison in results.comparisons] == [results.best] * 2
        for comparison in results.comparisons:
            a, b = (results.rows[index].test["accuracy"].value for index in (comparison.a, comparison.b))
            assert comparison.difference == pytest.approx(a - b)

    def test_every_row_is_scored_class_by_class(self, store, tmp_path):
        results = featx.fit(store, heads=["logreg", "linear-svm"], cv=3, jobs=1, output=tmp_path / "run")
        written = json.loads((tmp_path / "run" / "results.json").read_text())
        for row, kept, predicted in zip(results.rows, written["rows"], results.predictions, strict=True):
            said = predicted.probabilities.argmax(axis=1)
            k = range(len(results.dataset["classes"]))
            counts = [[int(((results.truth == a) & (said == b)).sum()) for b in k] for a in k]
            assert kept["confusion"] == [list(line) for line in row.confusion] == counts
            assert [one["name"] for one in kept["per_class"]] == results.dataset["classes"]
            assert [one["right"] for one in kept["per_class"]] == [counts[c][c] for c in k]
            recall = kept["per_class"][1]["recall"]
            assert recall["low"] <= recall["value"] <= recall["high"]
            assert {"ece", "average_precision"} <= kept["test"].keys()
        assert written["comparisons"][0]["p_adjusted"] == written["comparisons"][0]["p_value"]

    def test_labels_that_mean_nothing_score_like_chance(self, tmp_path):
        rng = np.random.default_rng(3)
        y = rng.permutation(np.tile(["a", "b"], 200))
        splits = np.repeat(["train", "test"], 200)
        path = featx.FeatureStore.from_arrays(
            tmp_path / "x.h5", rng.normal(size=(400, 8)), y, splits=splits
        ).path
        accuracy = featx.fit(path, **QUICK).best_row.test["accuracy"]
        assert accuracy.low <= 0.5 <= accuracy.high

    def test_a_tuning_split_is_used_as_the_one_fold_and_learned_from_in_the_end(self, tmp_path):
        X, y, _ = arrays()
        splits = np.repeat(["train", "val", "test"], 20)
        path = featx.FeatureStore.from_arrays(tmp_path / "x.h5", X, y, splits=splits).path
        results = featx.fit(path, **QUICK)
        assert results.settings["folds"] == 1
        splits = results.dataset["splits"]
        assert (splits["train"], splits["tuning"], splits["test"]) == (20, 20, 20)
        assert (results.predictions[0].out_of_fold >= 0).sum() == 20

    def test_copies_of_training_images_in_the_test_are_found_and_scored_apart(self, tmp_path):
        X, y, splits = arrays(distance=0.5)
        digests = np.random.default_rng(0).integers(0, 256, (60, 32), dtype=np.uint8)
        digests[40:45], X[40:45] = digests[:5], X[:5]
        path = tmp_path / "x.h5"
        featx.FeatureStore.from_arrays(path, X, y, splits=splits, digests=digests)
        results = featx.fit(path, **QUICK)
        assert results.dataset["audit"]["duplicates"]["count"] == 5
        predicted = results.predictions[0].probabilities.argmax(axis=1)
        clean = results.best_row.test["accuracy_without_leaks"].value
        assert clean == pytest.approx((predicted[5:] == results.truth[5:]).mean())

    def test_one_name_is_a_name(self, store):
        results = featx.fit(store, heads="logreg", layers="imported", cv=3, jobs=1, learning_curve=False)
        assert results.settings["heads"] == ["logreg"]
        assert results.settings["layers"] == ["imported:flatten"]
        assert (
            featx.fit(store, heads=find_head("ridge"), cv=3, jobs=1, learning_curve=False).best_row.head
            == "ridge"
        )

    def test_what_is_done_before_the_head_can_be_searched(self, store, tmp_path):
        results = featx.fit(
            store,
            **{**QUICK, "heads": ["logreg", "ridge"]},
            l2=(False, True),
            pca=(None, 3),
            output=tmp_path / "r",
        )
        for row in results.rows:
            assert {"l2", "pca"} < set(row.params)
        assert results.settings["l2"] == [False, True]
        assert results.settings["pca"] == [None, 3]
        model = featx.Model.load(tmp_path / "r")
        X, _, _ = arrays()
        np.testing.assert_allclose(
            model.estimator_.predict_proba(X[40:].astype(np.float32)),
            results.predictions[results.best].probabilities,
            atol=1e-6,
        )
        fixed = featx.fit(store, **QUICK, l2=True, pca=0.9).best_row.params
        assert (fixed["l2"], fixed["pca"]) == (True, 0.9)
        with pytest.raises(DatasetError, match=r"Got 2\.5 principal components"):
            featx.fit(store, **QUICK, pca=2.5)

    def test_weighed_classes_are_chosen_and_told_by_balanced_accuracy(self, tmp_path):
        rng = np.random.default_rng(0)
        y = np.repeat(["common", "rare"], [160, 40])
        X = rng.normal(size=(200, 5)) + 1.0 * (y == "rare")[:, None]
        store = featx.FeatureStore.from_arrays(tmp_path / "x.h5", X, y)
        results = featx.fit(store, **QUICK, balanced=True, output=tmp_path / "r")
        row = results.best_row
        assert row.cv["metric"] == "balanced_accuracy"
        weighed = row.test["balanced_accuracy"]
        text = (tmp_path / "r" / "report.md").read_text()
        assert (
            f", balanced accuracy {weighed.value:.3f} [{weighed.low:.3f}, {weighed.high:.3f}] on 50" in text
        )
        assert featx.fit(store, **QUICK).best_row.cv["metric"] == "accuracy"


class TestSeveralStores:
    def test_are_aligned_by_name_and_marked(self, tmp_path):
        X, y, splits = arrays()
        names = [f"{index}.png" for index in range(60)]
        order = np.random.default_rng(0).permutation(60)
        one = featx.FeatureStore.from_arrays(tmp_path / "a.h5", X, y, names, splits=splits, backbone="a")
        other = featx.FeatureStore.from_arrays(
            tmp_path / "b.h5", X[order], y[order], np.array(names)[order], splits=splits[order], backbone="b"
        )
        results = featx.fit([one, other], **QUICK)
        assert [row.backbone for row in results.rows] == ["a", "b"]
        assert results.rows[0].cv == results.rows[1].cv
        assert results.rows[0].test == results.rows[1].test
        assert results.comparisons[0].difference == 0

    def test_two_of_one_backbone_are_told_apart(self, tmp_path):
        X, y, splits = arrays()
        one = featx.FeatureStore.from_arrays(tmp_path / "sharp.h5", X, y, splits=splits, backbone="a")
        other = featx.FeatureStore.from_arrays(tmp_path / "blurred.h5", X / 2, y, splits=splits, backbone="a")
        results = featx.fit([one, other], output=tmp_path / "run", **QUICK)
        assert [row.label for row in results.rows] == ["a [sharp]", "a [blurred]"]
        assert "a [blurred]" in (tmp_path / "run" / "report.md").read_text().replace("\\", "")
        with pytest.raises(DatasetError, match="given twice"):
            featx.fit([one, one], **QUICK)

    def test_other_images_are_refused(self, tmp_path):
        X, y, _ = arrays()
        one = featx.FeatureStore.from_arrays(tmp_path / "a.h5", X, y)
        fewer = featx.FeatureStore.from_arrays(tmp_path / "b.h5", X[:59], y[:59])
        with pytest.raises(
            StoreError, match=r"1 only in the first, 0 only in the second, such as row-000059"
        ):
            featx.fit([one, fewer])
        digests = np.array(one.digests)
        digests[7] += 1
        changed = featx.FeatureStore.from_arrays(tmp_path / "c.h5", X, y, digests=digests)
        with pytest.raises(StoreError, match=r"different bytes for 1 images .* such as row-000007"):
            featx.fit([one, changed])

    def test_references_are_known_by_their_space(self, make_photos, tmp_path):
        root = make_photos()
        pixels = featx.extract(root, tmp_path / "pixels.h5", backbone="pixels")
        random = featx.extract(
            root, tmp_path / "random.h5", backbone="squeezenet1_1", weights="none", image_size=64, seed=3
        )
        results = featx.fit([pixels, random], **QUICK)
        assert [row.kind for row in results.rows] == ["reference", "reference"]
        assert results.rows[1].weights == "random, seed 3"


class TestLabels:
    def test_from_a_csv(self, store, tmp_path):
        table = tmp_path / "labels.csv"
        rows = [f"row-{row:06},{'odd' if row % 2 else 'even'},{row % 10}" for row in range(60)]
        table.write_text("\n".join(["name,parity,patient", *rows]))
        results = featx.fit(store, labels=table, label="parity", group="patient", **QUICK)
        assert results.dataset["classes"] == ["even", "odd"]
        assert results.dataset["audit"]["shared_groups"]["count"] == 10
        assert results.dataset["splits"]["test_groups"] == 10
        with pytest.raises(UnknownNameError, match="parity"):
            featx.fit(store, labels=table, label="paritty", **QUICK)

    def test_from_a_mapping(self, store):
        labels = {f"row-{row:06}": "low" if row % 20 < 10 else "high" for row in range(50)}
        results = featx.fit(store, labels=labels, **QUICK)
        assert results.dataset["classes"] == ["high", "low"]
        assert results.dataset["unlabelled"] == 10

    def test_a_csv_of_other_names_says_what_they_look_like(self, store, tmp_path):
        (tmp_path / "labels.csv").write_text("path,label\nphotos/a.jpg,x\n")
        with pytest.raises(
            DatasetError, match=r"names there look like row-000000, in the CSV like photos/a\.jpg"
        ):
            featx.fit(store, labels=tmp_path / "labels.csv", **QUICK)

    def test_what_a_csv_decides_is_told(self, store, tmp_path):
        rows = [f"row-{row:06},{'ab'[row % 2]},{'test' if row < 15 else 'train'}" for row in range(60)]
        (tmp_path / "labels.csv").write_text("\n".join(["name,label,split", *rows, "gone,a,test"]))
        results = featx.fit(store, labels=tmp_path / "labels.csv", output=tmp_path / "run", **QUICK)
        assert results.test_names == tuple(f"row-{row:06}" for row in range(15))
        assert results.dataset["notes"] == [
            "1 of 61 names in the CSV are no image of the store, such as gone",
            "the splits are those of the column split in labels.csv",
        ]
        saved = json.loads((tmp_path / "run" / "results.json").read_text())
        assert saved["dataset"]["notes"] == results.dataset["notes"]
        assert "such as gone" in (tmp_path / "run" / "report.md").read_text()


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"heads": ["logrg"]}, UnknownNameError, "'logreg'"),
            ({"layers": ["import"]}, UnknownNameError, "'imported:flatten'"),
            ({"heads": []}, DatasetError, "No head"),
            ({"cv": 50}, DatasetError, "50"),
            ({"seed": -1}, DatasetError, "seed -1, expected a number from 0 to 4294967295"),
            ({"seed": 2**32}, DatasetError, "seed 4294967296"),
            ({"jobs": 0}, DatasetError, "0 jobs"),
            ({"heads": "logrg"}, UnknownNameError, "'logrg'.*'logreg'"),
            ({"layers": "imprted"}, UnknownNameError, "'imprted'.*'imported:flatten'"),
        ],
    )
    def test_options(self, store, options, error, text):
        with pytest.raises(error, match=text):
            featx.fit(store, **{**QUICK, **options})

    def test_one_class(self, tmp_path):
        path = featx.FeatureStore.from_arrays(tmp_path / "x.h5", np.eye(4), ["a"] * 4).path
        with pytest.raises(DatasetError, match="class 'a'"):
            featx.fit(path)

    def test_a_place_where_no_run_can_be_is_known_before_any_work(self, store, tmp_path):
        (tmp_path / "file").touch()
        steps = []
        with pytest.raises(FeatxError, match="file is a file"):
            featx.fit(store, output=tmp_path / "file" / "run", on_progress=steps.append, **QUICK)
        assert not steps

    def test_the_folder_of_a_network_is_left_alone(self, store, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "results.json").write_text("{}")
        (tmp_path / "run" / "network.safetensors").write_bytes(b"a network")
        with pytest.raises(FeatxError, match="network of `featx finetune`; choose another folder"):
            featx.fit(store, output=tmp_path / "run", **QUICK)
        assert (tmp_path / "run" / "results.json").read_text() == "{}"
        assert (tmp_path / "run" / "network.safetensors").read_bytes() == b"a network"

    def test_a_folder_that_is_no_run_is_left_alone(self, store, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter1.tex").write_text("words")
        with pytest.raises(FeatxError, match="no run folder"):
            featx.fit(store, output=tmp_path / "thesis", **QUICK)
        assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


class TestRunFolder:
    def test_holds_everything_and_reads_back(self, store, tmp_path):
        results = featx.fit(store, output=tmp_path / "run", command="featx fit x.h5", **QUICK)
        names = {path.name for path in (tmp_path / "run").iterdir()}
        assert names == {"results.json", "predictions.npz", "report.md", "report.html", "model.featx"}
        data = json.loads((tmp_path / "run" / "results.json").read_text())
        assert data == json.loads(json.dumps(results.to_json()))
        assert data["schema"] == "featx.results/1"
        assert data["command"] == "featx fit x.h5"
        with np.load(tmp_path / "run" / "predictions.npz", allow_pickle=False) as saved:
            np.testing.assert_allclose(
                saved["probabilities_0"], results.predictions[0].probabilities, atol=1e-6
            )
            np.testing.assert_array_equal(saved["truth"], results.truth)
            assert [name.decode() for name in saved["names"]] == list(results.test_names)
        accuracy = results.best_row.test["accuracy"].value
        assert f"{accuracy:.3f}" in (tmp_path / "run" / "report.md").read_text()

    @pytest.mark.parametrize("error", [BrokenPipeError, SystemExit])
    def test_a_table_that_cannot_be_printed_does_not_cost_the_model(self, store, tmp_path, error):
        def show(results):
            raise error

        with pytest.raises(error):
            featx.fit(store, output=tmp_path / "run", on_results=show, **QUICK)
        assert featx.Model.load(tmp_path / "run").classes_.tolist() == ["ant", "bee", "wasp"]
        assert (tmp_path / "run" / "report.html").exists()

    def test_torch_is_not_loaded_before_the_results_are_out(self, store, tmp_path):
        code = f"""
import sys, featx
def show(results):
    import pathlib
    saved = pathlib.Path({str(tmp_path / "run")!r}) / "results.json"
    print(saved.exists(), "torch" in sys.modules, "skops" in sys.modules)
featx.fit({str(store)!r}, output={str(tmp_path / "run")!r}, heads=["logreg"], cv=3, on_results=show)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["True", "False", "False"]
        assert (tmp_path / "run" / "model.featx").exists()

    def test_a_report_that_fails_costs_no_model(self, store, tmp_path, monkeypatch):
        def fail(folder):
            raise FeatxError("no fonts")

        monkeypatch.setattr(experiment, "write_report", fail)
        with pytest.raises(FeatxError, match="no fonts"):
            featx.fit(store, output=tmp_path / "run", **QUICK)
        assert list(featx.Model.load(tmp_path / "run").classes_) == ["ant", "bee", "wasp"]

    def test_an_old_model_never_stands_beside_new_results(self, store, tmp_path):
        folder = tmp_path / "run"
        featx.fit(store, output=folder, command="old", **QUICK)

        def stop(results):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            featx.fit(store, output=folder, command="new", on_results=stop, **QUICK)
        assert {path.name for path in folder.iterdir()} == {"results.json", "predictions.npz"}
        assert json.loads((folder / "results.json").read_text())["command"] == "new"
