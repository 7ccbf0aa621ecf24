"""The audit from stores to results: leaks, lookalikes, shifts, suspected labels, and labels that lack."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import featx
from featx.cli import cli
from featx.errors import DatasetError
from featx.report import write_report

QUICK = {"heads": ["logreg"], "cv": 3, "jobs": 1, "learning_curve": False}


def arrays(n=180, d=8, gap=3.0, seed=0):
    """Two thirds for training, one for the test; hashes that are far apart."""
    rng = np.random.default_rng(seed)
    y = np.tile(["ant", "bee", "wasp"], n // 3)
    X = rng.normal(size=(n, d)) + gap * (y[:, None] == ["ant", "bee", "wasp"]) @ np.eye(3, d)
    columns = {
        "splits": np.repeat(["train", "test"], [2 * n // 3, n // 3]),
        "digests": rng.integers(0, 256, (n, 32), dtype=np.uint8),
        "phashes": rng.integers(1, 2**63, n, dtype=np.uint64),
    }
    return X, y, columns


@pytest.fixture
def fit(tmp_path):
    def fit(X, y, columns, **options):
        path = tmp_path / "x.h5"
        featx.FeatureStore.from_arrays(path, X, y, overwrite=True, **columns)
        return featx.fit(path, **{**QUICK, **options})

    return fit


class TestLookalikes:
    def test_of_training_images_in_the_test_are_scored_apart(self, fit):
        X, y, columns = arrays(gap=1.0)
        columns["digests"][120:124] = columns["digests"][:4]
        columns["phashes"][120:130] = columns["phashes"][:10] ^ np.uint64(0b11)
        results = fit(X, y, columns)
        audit, test = results.dataset["audit"], results.best_row.test
        assert (audit["duplicates"]["count"], audit["near_duplicates"]["count"]) == (4, 6)
        right = results.predictions[0].probabilities.argmax(axis=1) == results.truth
        assert test["accuracy"].value == pytest.approx(right.mean())
        assert test["accuracy_without_leaks"].value == pytest.approx(right[4:].mean())
        assert test["accuracy_without_lookalikes"].value == pytest.approx(right[10:].mean())
        recalls = [right[10:][results.truth[10:] == c].mean() for c in range(3)]
        assert test["balanced_accuracy_without_lookalikes"].value == pytest.approx(np.mean(recalls))

    def test_alone_have_no_score_without_leaks(self, fit):
        X, y, columns = arrays()
        columns["phashes"][125] = columns["phashes"][3]
        test = fit(X, y, columns).best_row.test
        assert "accuracy_without_lookalikes" in test
        assert "accuracy_without_leaks" not in test
        assert not any("without" in name for name in fit(*arrays()).best_row.test)

    def test_of_all_test_images_leave_nothing_to_score(self, fit):
        X, y, columns = arrays()
        columns["digests"][120:] = columns["digests"][:60]
        results = fit(X, y, columns)
        assert results.dataset["audit"]["leaked_test"] == 60
        assert "accuracy_without_leaks" not in results.best_row.test

    def test_between_folds_are_found_and_what_they_are_worth(self, fit):
        """Of labels that mean nothing, a fold knows only the twins of what it learned."""
        rng = np.random.default_rng(0)
        _, y, columns = arrays(n=240)
        X = rng.normal(size=(240, 200))
        y = rng.permutation(y)
        columns["splits"] = np.repeat(["test", "train"], [80, 160])
        X[160:], y[160:] = X[80:160], y[80:160]
        columns["phashes"][160:] = columns["phashes"][80:160] ^ np.uint64(1 << 40)
        results = fit(X, y, columns, heads=["knn"])
        within = results.dataset["audit"]["near_within_training"]
        assert within["of"] == 160
        assert 60 < within["count"] < 160  # some twins share their fold
        assert results.best_row.cv["mean"] > 0.5
        assert within["accuracy_without"]["low"] < 0.4

    def test_between_folds_of_whole_groups_are_none(self, fit):
        X, y, columns = arrays(n=240)
        columns["phashes"][80:160] = columns["phashes"][:80]
        columns["groups"] = [f"g{row % 80}" if row < 160 else f"t{row}" for row in range(240)]
        results = fit(X, y, columns)
        assert results.dataset["audit"]["near_within_training"] == {"count": 0, "of": 160, "examples": []}


class TestShift:
    def test_of_the_source_s_own_test_is_measured(self, fit, tmp_path):
        X, y, columns = arrays()
        X[120:, 5:] += 2
        results = fit(X, y, columns, output=tmp_path / "run")
        shift = results.dataset["audit"]["shift"]
        assert shift["auc"] > 0.9
        assert shift["p_value"] < 1e-6
        assert "can be told from training images" in (tmp_path / "run" / "report.md").read_text()

    def test_of_one_source_is_not_told(self, fit, tmp_path):
        results = fit(*arrays(), output=tmp_path / "run")
        shift = results.dataset["audit"]["shift"]
        assert shift["low"] < 0.5 < shift["high"]
        assert "can be told from training images" not in (tmp_path / "run" / "report.md").read_text()

    def test_of_a_hold_out_is_not_measured(self, fit):
        X, y, columns = arrays()
        assert "shift" not in fit(X, y, columns | {"splits": None}).dataset["audit"]

    def test_takes_no_part_in_any_score(self, fit):
        X, y, columns = arrays()
        moved = X.copy()
        moved[120:, 5:] += 2
        one, other = fit(X, y, columns), fit(moved, y, columns)
        assert one.best_row.cv == other.best_row.cv
        assert one.best_row.params == other.best_row.params


class TestSuspects:
    def test_of_training_and_test_are_in_the_results_and_the_report(self, fit, tmp_path):
        X, y, columns = arrays(n=300, gap=6.0)
        planted = np.arange(4, 300, 20)
        y[planted] = np.array(["bee", "wasp", "ant"])[planted % 3]
        results = fit(X, y, columns, output=tmp_path / "run")
        suspects = results.suspects
        found = {int(image["name"][4:]) for image in suspects["images"]}
        assert found <= set(planted.tolist())
        assert len(found) == suspects["count"] >= 0.8 * len(planted)
        assert (suspects["checked"], suspects["contradicted"]) == (300, len(planted))
        assert {image["split"] for image in suspects["images"]} == {"train", "test"}
        for image in suspects["images"]:
            row = int(image["name"][4:])
            assert image["split"] == ("train" if row < 200 else "test")
            assert (image["label"], image["predicted"]) == (y[row], ["ant", "bee", "wasp"][row % 3])
        saved = json.loads((tmp_path / "run" / "results.json").read_text())
        assert saved["suspects"] == json.loads(json.dumps(suspects))
        report = (tmp_path / "run" / "report.md").read_text()
        assert "Images to look at: their labels may be wrong" in report
        assert f"Of 300 labels, {suspects['count']} are suspected to be wrong" in report

    def test_the_probabilities_are_kept(self, fit, tmp_path):
        X, y, columns = arrays(gap=1.5)
        results = fit(X, y, columns, heads=["logreg", "knn"], output=tmp_path / "run")
        with np.load(tmp_path / "run" / "predictions.npz", allow_pickle=False) as saved:
            kept = saved["oof_probabilities"]
            labels = saved[f"oof_{results.best}"]
        assert kept.dtype == np.float32
        assert kept.shape == (120, 3)
        np.testing.assert_array_equal(kept.argmax(axis=1), labels)
        tested = results.predictions[results.best].probabilities
        assert len(results.suspects["images"]) > 5
        for shown in results.suspects["images"]:
            row = int(shown["name"][4:])
            p = kept[row] if row < 120 else tested[row - 120]
            assert shown["probability"] == pytest.approx(p.max(), rel=1e-5)
            assert shown["label_probability"] == pytest.approx(
                p[["ant", "bee", "wasp"].index(y[row])], rel=1e-5
            )

    def test_with_a_tuning_split_only_what_was_held_out_is_checked(self, fit):
        X, y, columns = arrays()
        results = fit(X, y, columns | {"splits": np.repeat(["train", "val", "test"], 60)})
        assert results.suspects["checked"] == 120

    def test_are_capped_and_counted(self, fit):
        X, y, columns = arrays(n=1200, gap=6.0)
        wrong = np.arange(0, 1200, 16)
        y[wrong] = np.array(["bee", "wasp", "ant"])[np.arange(1200) % 3][wrong]
        suspects = fit(X, y, columns).suspects
        assert len(suspects["images"]) == 50
        assert 60 < suspects["count"] <= 90

    def test_a_report_of_an_older_run_is_drawn(self, fit, tmp_path):
        fit(*arrays(), output=tmp_path / "run")
        file = tmp_path / "run" / "results.json"
        old = json.loads(file.read_text())
        del old["suspects"], old["dataset"]["audit"]["shift"], old["dataset"]["audit"]["near_within_training"]
        file.write_text(json.dumps(old))
        write_report(tmp_path / "run")
        assert "suspected" not in (tmp_path / "run" / "report.md").read_text()


class TestLabelsThatLack:
    """Each is an error or a note that names the class and what to do, from an import as well."""

    def test_in_some_images_of_a_split(self, fit):
        X, y, columns = arrays()
        y[[2, 3, 150]] = ""
        results = fit(X, y, columns)
        assert results.dataset["notes"] == [
            "2 of 120 train images have no label and are left out: label them",
            "1 of 60 test images have no label and are left out: label them",
        ]
        assert results.dataset["unlabelled"] == 3

    def test_in_the_whole_test(self, fit):
        X, y, columns = arrays()
        y[120:] = ""
        results = fit(X, y, columns)
        assert results.dataset["notes"] == ["the test split has no labels and is left out (60 images)"]
        assert results.dataset["splits"]["origin"].startswith("a stratified hold-out")

    def test_in_the_whole_training_part(self, fit):
        X, y, columns = arrays()
        y[:120] = ""
        with pytest.raises(DatasetError, match="All 60 labelled images are in the test or val split"):
            fit(X, y, columns)

    def test_everywhere(self, fit):
        X, _, columns = arrays()
        with pytest.raises(
            DatasetError, match="None of the 180 images has a label: put them into class folders"
        ):
            fit(X, None, columns)

    def test_of_a_class_in_the_test(self, fit, tmp_path):
        X, y, columns = arrays()
        columns["splits"][y == "wasp"] = "train"
        results = fit(X, y, columns, output=tmp_path / "run")
        (note,) = results.dataset["notes"]
        assert note.startswith("no test image of 1 of 3 classes ('wasp'), so that")
        assert note.endswith("add test images of them")
        assert "no test image of 1 of 3 classes" in (tmp_path / "run" / "report.md").read_text()

    def test_of_a_class_in_the_tuning_split(self, fit):
        X, y, columns = arrays()
        columns["splits"] = np.repeat(["train", "val", "test"], 60)
        columns["splits"][(y == "wasp") & (columns["splits"] == "val")] = "train"
        (note,) = fit(X, y, columns).dataset["notes"]
        assert note.startswith("no val image of 1 of 3 classes ('wasp'), so that the choice does not look")

    @pytest.mark.parametrize("split", ["test", "val"])
    def test_of_a_class_in_training(self, fit, split):
        X, y, columns = arrays()
        columns["splits"] = np.repeat(["train", "val", "test"], 60)
        columns["splits"][y == "wasp"] = split
        with pytest.raises(DatasetError, match=f"'wasp' has 60 {split} images and no training image: add"):
            fit(X, y, columns)

    def test_for_the_folds(self, fit):
        X, y, columns = arrays()
        columns["splits"][(y == "wasp") & (np.arange(180) > 8)] = "test"
        with pytest.raises(DatasetError, match=r"Class 'wasp' has 3 training images, fewer than the 5 folds"):
            fit(X, y, columns, cv=5)
        assert fit(X, y, columns, cv=3).dataset["audit"]["small_classes"] == []

    def test_from_an_import(self, tmp_path):
        X, y, columns = arrays()
        columns["splits"][y == "wasp"] = "test"
        np.savez(tmp_path / "x.npz", X=X, y=y, splits=columns["splits"])
        run = CliRunner()
        done = run.invoke(cli, ["import", str(tmp_path / "x.npz"), "-o", str(tmp_path / "x.h5")])
        assert done.exit_code == 0, done.output
        arguments = ["fit", str(tmp_path / "x.h5"), "-o", str(tmp_path / "run"), "--head", "logreg"]
        done = run.invoke(cli, arguments)
        assert done.exit_code != 0
        assert "Class 'wasp' has 60 test images and no training image: add training images" in " ".join(
            done.output.split()
        )
