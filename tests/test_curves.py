"""Learning and few-shot curves: what is drawn, what is extrapolated, what a run keeps of them."""

import json

import numpy as np
import pytest

import featx
from featx import draws, experiment, learning
from featx.draws import Material
from featx.errors import DatasetError, FeatxError
from featx.heads.catalog import find_head
from featx.heads.search import tune
from featx.learning import extrapolate, schedule
from featx.results import CURVES_SCHEMA
from featx.shots import few_shot

QUICK = {"heads": ["ridge"], "cv": 3, "jobs": 1, "draws": 3}


def arrays(n=90, d=6, distance=1.5, seed=0):
    rng = np.random.default_rng(seed)
    y = np.tile(["ant", "bee", "wasp"], n // 3)
    X = rng.normal(size=(n, d)) + distance * (y[:, None] == ["ant", "bee", "wasp"]) @ np.eye(3, d)
    return X.astype(np.float32), y


def material(X, y, learn, score, head="ridge", groups=None, seed=0, cv=3):
    rounds = [(np.asarray(learn), np.asarray(score))]
    return Material(find_head(head), X, y, groups, rounds, cv, seed, balanced=False, jobs=1)


@pytest.fixture
def store(tmp_path):
    X, y = arrays()
    splits = np.repeat(["train", "test"], [60, 30])
    return featx.FeatureStore.from_arrays(tmp_path / "x.h5", X, y, splits=splits).path


@pytest.fixture
def watched(monkeypatch):
    """Every tuned fit of a curve: its rows, labels, groups, folds and the name of its head."""
    fits = []

    def watch(head, X, y, **options):
        fits.append((X, y, options["groups"], options["cv"], head.name))
        return tune(head, X, y, **options)

    monkeypatch.setattr(draws, "tune", watch)
    return fits


class TestFewShot:
    def test_draws_hold_exactly_s_images_of_each_class(self, watched):
        X, y = arrays()
        few_shot(material(X, y, range(60), range(60, 90)), [2, 5, 20], 3)
        counts = [np.unique(labels, return_counts=True)[1].tolist() for _, labels, *_ in watched]
        assert counts == [[2] * 3, [5] * 3, [20] * 3] * 3
        train = {row.tobytes() for row in X[:60]}
        assert all(row.tobytes() in train for rows, *_ in watched for row in rows)
        # Draws differ, but for those of all there are.
        of_five = [{row.tobytes() for row in rows} for rows, labels, *_ in watched if len(labels) == 15]
        assert len({frozenset(rows) for rows in of_five}) == 3
        # As many folds as a class has images, three at the most.
        assert [len(folds) for *_, folds, _ in watched[:3]] == [2, 3, 3]

    def test_all_there_is_scores_as_the_head_does(self):
        X, y = arrays()
        (point,) = few_shot(material(X, y, range(60), range(60, 90)), [20], 2)
        alone = tune("ridge", X[:60], y[:60], cv=3).best_estimator_
        accuracy = (alone.predict(X[60:]) == y[60:]).mean()
        assert point["draws"] == [accuracy] * 2
        assert point["accuracy"] == {"value": accuracy, "low": accuracy, "high": accuracy}
        assert (point["shots"], point["n"]) == (20, 60)

    def test_one_image_of_a_class_is_not_tuned_nor_scaled(self, watched):
        # The first dimension alone tells the classes apart, and its size does.
        X = np.zeros((40, 30), dtype=np.float32)
        y = np.tile(["a", "b"], 20)
        X[:, 0] = np.where(y == "a", -5, 5)
        X += np.random.default_rng(0).normal(scale=0.5, size=X.shape)
        (point,) = few_shot(material(X, y, range(20), range(20, 40), head="linear-svm"), [1], 5)
        assert not watched
        assert point["accuracy"]["value"] == 1

    @pytest.mark.parametrize("head", ["logreg", "linear-svm", "rbf-svm", "ridge", "knn"])
    def test_every_head_can_do_with_one_image(self, head):
        X, y = arrays(distance=6)
        (point,) = few_shot(material(X, y, range(60), range(60, 90), head=head), [1], 3)
        assert point["accuracy"]["value"] > 0.6

    def test_images_come_from_as_many_groups_as_there_are(self, watched):
        X, y = arrays()
        groups = np.repeat(np.arange(15), 6)
        few_shot(material(X, y, range(60), range(60, 90), groups=groups), [5], 4)
        assert len(watched) == 4
        for _, labels, drawn, folds, _ in watched:
            for label in np.unique(labels):
                assert len(set(drawn[labels == label])) == 5
            for train, valid in folds:
                assert not set(drawn[train]) & set(drawn[valid])

    def test_of_a_run(self, store):
        options = {**QUICK, "shots": "5,1,50", "learning_curve": False}
        found = featx.fit(store, **{**options, "heads": ["ridge", "knn"]}).curves["few_shot"]
        assert found["shots"] == [1, 5]
        assert found["notes"] == [
            "50 shots are left out: the smallest class, 'ant', has 20 images to draw from"
        ]
        assert [entry["row"] for entry in found["rows"]] == [0, 1]
        (alone,) = featx.fit(store, **options).curves["few_shot"]["rows"]
        assert alone == found["rows"][0]
        other = featx.fit(store, seed=1, **options).curves["few_shot"]["rows"][0]
        assert other["points"][0]["draws"] != alone["points"][0]["draws"]

    @pytest.mark.parametrize("shots", ["1,x", "0,5", [], "", [1.5]])
    def test_what_is_no_number_of_shots(self, store, shots):
        with pytest.raises(DatasetError, match=r"expected numbers of images per class such as 1,5,10,20,50"):
            featx.fit(store, shots=shots, **QUICK)

    def test_one_draw_has_no_interval(self, store):
        with pytest.raises(DatasetError, match="Got 1 draws, expected at least 2"):
            featx.fit(store, **{**QUICK, "draws": 1})


class TestLearningCurve:
    def test_sizes_grow_to_all_labels(self, store):
        results = featx.fit(store, **QUICK)
        found = results.curves["learning"]
        sizes = [point["n"] for point in found["points"]]
        assert sizes == [6, 10, 15, 24, 38, 60]
        assert found["points"][-1]["draws"] == [results.best_row.test["accuracy"].value] * 3
        assert (found["n_now"], found["n_doubled"]) == (60, 120)
        assert found["of"] == "the same 30 test images"
        assert found["row"] == results.best

    def test_points_are_heads_fitted_by_hand(self, store):
        X, y = arrays()
        found = featx.fit(store, **QUICK).curves["learning"]
        plan = schedule(material(X, y, range(60), range(60, 90)), 3)
        for step, size in enumerate(plan.sizes):
            for draw, order in enumerate(plan.orders):
                rows = order.take(size)
                k = min(3, int(np.unique(y[rows], return_counts=True)[1].min()))
                alone = tune("ridge", X[rows], y[rows], cv=k).best_estimator_
                accuracy = (alone.predict(X[60:]) == y[60:]).mean()
                assert found["points"][step]["draws"][draw] == pytest.approx(accuracy)

    def test_is_of_the_winner_alone(self, store, watched):
        results = featx.fit(store, **{**QUICK, "heads": ["rbf-svm", "ridge"]})
        assert results.best == 1
        assert len(watched) == 5 * 3
        assert results.curves["learning"]["row"] == results.best
        assert {head for *_, head in watched} == {results.best_row.head}

    def test_groups_are_whole(self, tmp_path, watched):
        X, y = arrays(n=120)
        patients = np.random.default_rng(3).integers(30, size=120)
        group_of = {row.tobytes(): patient for row, patient in zip(X, patients, strict=True)}
        rows = [f"row-{row:06},{label},{p}" for row, (label, p) in enumerate(zip(y, patients, strict=True))]
        (tmp_path / "labels.csv").write_text("\n".join(["name,label,patient", *rows]))
        path = featx.FeatureStore.from_arrays(tmp_path / "x.h5", X, y).path
        results = featx.fit(path, labels=tmp_path / "labels.csv", group="patient", **QUICK)
        tested = {patients[int(name.removeprefix("row-"))] for name in results.test_names}
        assert watched
        for drawn, _, codes, folds, _ in watched:
            named = [group_of[row.tobytes()] for row in drawn]
            assert not set(named) & tested
            # All images of each patient, and one code for each.
            assert all(named.count(patient) == (patients == patient).sum() for patient in set(named))
            assert len(set(zip(named, codes.tolist(), strict=True))) == len(set(named))
            for train, valid in folds:
                assert not set(codes[train]) & set(codes[valid])

    def test_one_seed_gives_one_curve_whatever_the_threads(self, store):
        options = {**QUICK, "heads": ["logreg"], "shots": [2]}
        first, second = featx.fit(store, **options), featx.fit(store, **{**options, "jobs": 2})
        assert first.curves == second.curves
        assert featx.fit(store, seed=1, **options).curves["learning"] != first.curves["learning"]

    def test_of_nested_folds(self, tmp_path, watched):
        X, y = arrays()
        path = featx.FeatureStore.from_arrays(tmp_path / "x.h5", X, y).path
        results = featx.fit(path, nested=True, shots=[4], **{**QUICK, "draws": 4})
        found, few = results.curves["learning"], results.curves["few_shot"]
        # Twice each of the three outer folds; the last point is that of all of them.
        assert found["draws"] == 6
        assert found["points"][-1]["n"] == 60
        assert found["points"][-1]["accuracy"]["value"] == results.best_row.test["accuracy"].value
        assert (found["n_now"], found["n_doubled"]) == (90, 180)
        assert few["draws"] == 4
        assert found["of"].startswith("the outer folds of all 90 labelled images")
        at = results.test_names.index("row-000000")
        assert results.truth[at] == 0

    def test_too_few_images(self, tmp_path):
        X, y = arrays(n=24)
        path = featx.FeatureStore.from_arrays(
            tmp_path / "x.h5", X, y, splits=["train"] * 9 + ["test"] * 15
        ).path
        results = featx.fit(path, output=tmp_path / "run", **QUICK)
        found = results.curves["learning"]
        assert found["points"] == []
        assert "9 labelled images to learn from are too few" in found["notes"][0]
        assert "are too few for a learning curve" in (tmp_path / "run" / "report.md").read_text()

    def test_large_sets_are_drawn_fewer_times(self, monkeypatch):
        monkeypatch.setattr(learning, "LARGE", 60 * 4)
        X, y = arrays()
        assert len(schedule(material(X, y, range(60), range(60, 90)), 10).orders) == 4
        monkeypatch.setattr(learning, "LARGE", 60)
        assert len(schedule(material(X, y, range(60), range(60, 90)), 10).orders) == 3

    def test_none_asked_for(self, store, tmp_path):
        results = featx.fit(store, learning_curve=False, output=tmp_path / "run", **QUICK)
        assert results.curves is None
        assert not (tmp_path / "run" / "curves.json").exists()


class TestExtrapolation:
    """On made-up draws whose truth is known."""

    sizes = np.array([24.0, 38, 61, 97, 154, 244])

    def draw(self, errors, n=200, draws=10, seed=0, groups=None):
        """Whether each image is right: images differ in difficulty, and draws in luck."""
        rng = np.random.default_rng(seed)
        units = np.arange(n) if groups is None else groups
        difficulty = rng.uniform(size=units.max() + 1)[units]
        noise = rng.normal(scale=0.05, size=(draws, len(errors), n))
        return difficulty + noise > np.asarray(errors)[None, :, None]

    def test_finds_the_truth(self):
        truth = 0.02 + 1.5 * self.sizes**-0.6
        right = self.draw(truth, n=4000)
        found = extrapolate(self.sizes, right, np.ones((10, 4000), bool), 244)
        assert found["doubled"]["value"] == pytest.approx(1 - (0.02 + 1.5 * 488**-0.6), abs=0.015)
        gain = 1.5 * (244**-0.6 - 488**-0.6)
        assert found["gain"]["value"] == pytest.approx(gain, abs=0.005)
        assert found["gain"]["low"] < gain < found["gain"]["high"]

    def test_intervals_cover_it_in_a_sane_share(self):
        truth, covered, wide = 0.05 + 2 * self.sizes**-0.7, [], []
        target, gain = 1 - (0.05 + 2 * 488**-0.7), 2 * (244**-0.7 - 488**-0.7)
        for seed in range(60):
            right = self.draw(truth, seed=seed)
            found = extrapolate(self.sizes, right, np.ones((10, 200), bool), 244, seed=seed, resamples=300)
            covered.append(
                [
                    found["doubled"]["low"] <= target <= found["doubled"]["high"],
                    found["gain"]["low"] <= gain <= found["gain"]["high"],
                ]
            )
            wide.append(found["doubled"]["high"] - found["doubled"]["low"])
        assert (np.mean(covered, axis=0) >= 0.87).all()
        assert np.mean(wide) < 0.12

    def test_a_flat_curve_gains_nothing(self):
        right = self.draw(np.full(6, 0.2), n=1000)
        found = extrapolate(self.sizes, right, np.ones((10, 1000), bool), 244)
        assert found["gain"]["low"] == 0
        assert found["gain"]["value"] < 0.004

    def test_whole_groups_make_it_wider(self):
        groups = np.repeat(np.arange(20), 10)
        right = self.draw(0.1 + 2 * self.sizes**-0.7, groups=groups)
        scored = np.ones((10, 200), bool)
        alone, whole = (
            extrapolate(self.sizes, right, scored, 244, groups=codes)["doubled"] for codes in (None, groups)
        )
        assert whole["high"] - whole["low"] > 1.5 * (alone["high"] - alone["low"])
        assert whole["value"] == alone["value"]

    def test_images_that_a_draw_does_not_score_do_not_count(self):
        right = self.draw(0.1 + 2 * self.sizes**-0.7)
        scored = np.ones((10, 200), bool)
        scored[:5, 100:] = False
        masked = right & scored[:, None, :]
        found = extrapolate(self.sizes, masked, scored, 244)
        shares = masked.sum(axis=(0, 2)) / scored.sum()
        assert found["now"]["value"] == pytest.approx(shares[-1], abs=0.03)

    def test_the_luck_of_these_labels_is_in_the_interval(self):
        """Draws that vary much at small sizes come from labels that could have been others."""
        rng = np.random.default_rng(0)
        scored = np.ones((10, 5000), bool)
        truth = 0.1 + 2 * self.sizes**-0.7
        steady = self.draw(truth, n=5000)
        shift = rng.normal(scale=0.06, size=(10, 6)) * np.sqrt((1 - self.sizes / 244) * 24 / self.sizes)
        shaky = np.array([self.draw(truth + row, n=5000, draws=1)[0] for row in shift])
        widths = [
            found["now"]["high"] - found["now"]["low"]
            for found in (extrapolate(self.sizes, right, scored, 244) for right in (steady, shaky))
        ]
        assert widths[1] > 1.5 * widths[0]


class TestRunFolder:
    def test_keeps_the_curves_and_tells_them(self, store, tmp_path):
        results = featx.fit(store, shots=[1, 5], output=tmp_path / "run", **QUICK)
        data = json.loads((tmp_path / "run" / "curves.json").read_text())
        assert data == json.loads(json.dumps(results.curves))
        assert data["schema"] == "featx.curves/1"
        report = (tmp_path / "run" / "report.md").read_text()
        assert "## With more labels" in report
        assert "(120) would bring" in report
        assert "## With few labels" in report
        page = (tmp_path / "run" / "report.html").read_text()
        assert page.count("Learning curve of the best model: mean accuracy of the draws") >= 1
        assert page.count("Few-shot") + page.count("few-shot") >= 1
        assert results.settings["shots"] == [1, 5]
        assert (results.settings["draws"], results.settings["learning_curve"]) == (3, True)

    def test_the_table_is_out_before_any_curve(self, store, tmp_path):
        told = []

        def show(results):
            assert results.curves is None
            told.append(len(steps))

        steps = []
        featx.fit(
            store, shots=[2], output=tmp_path / "run", on_results=show, on_progress=steps.append, **QUICK
        )
        stages = [step.stage for step in steps]
        assert {"few-shot curves", "learning curve"} <= set(stages)
        assert not {"few-shot curves", "learning curve"} & set(stages[: told[0]])
        for stage, total in (("few-shot curves", 3), ("learning curve", 15)):
            assert [step.done for step in steps if step.stage == stage] == list(range(total + 1))

    @pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
    def test_whoever_stops_the_curves_has_everything_else(self, store, tmp_path, error, monkeypatch):
        folder = tmp_path / "run"
        featx.fit(store, output=folder, command="old", **QUICK)

        def stop(step):
            if step.stage == "learning curve" and step.done == 4:
                raise error

        with pytest.raises(error):
            featx.fit(store, output=folder, command="new", on_progress=stop, **QUICK)
        names = {path.name for path in folder.iterdir()}
        assert names == {"results.json", "predictions.npz", "report.md", "report.html", "model.featx"}
        assert json.loads((folder / "results.json").read_text())["command"] == "new"
        assert featx.Model.load(folder).classes_.tolist() == ["ant", "bee", "wasp"]
        report = (folder / "report.md").read_text()
        assert "featx" in report
        assert "With more labels" not in report

    def test_curves_that_cannot_be_written_cost_nothing_else(self, store, tmp_path, monkeypatch):
        def fail(folder, found):
            raise FeatxError("no space")

        monkeypatch.setattr(experiment, "save_curves", fail)
        with pytest.raises(FeatxError, match="no space"):
            featx.fit(store, output=tmp_path / "run", **QUICK)
        assert (tmp_path / "run" / "model.featx").exists()
        assert "Verdict" in (tmp_path / "run" / "report.md").read_text()

    def test_a_folder_with_curves_is_a_run_folder(self, store, tmp_path):
        featx.fit(store, output=tmp_path / "run", **QUICK)
        (tmp_path / "run" / "results.json").unlink()
        assert featx.fit(store, output=tmp_path / "run", **QUICK).curves["schema"] == CURVES_SCHEMA
