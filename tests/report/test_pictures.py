from __future__ import annotations

import copy
import re

import numpy as np
import pytest

from featx.report.cost_pictures import draw_cost, draw_depths, pareto_front
from featx.report.curves import curve_sections
from featx.report.map_pictures import draw_map
from featx.report.score_pictures import draw_calibration, draw_precision_recall, draw_roc
from featx.report.tested import Judged, read_tested
from featx.report.training_pictures import chosen_training, draw_training


def make_tested(k=3, n=90, seed=0, **more):
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % k
    scores = rng.normal(size=(n, k)) + 2 * np.eye(k)[truth]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    parts = {"classes": [f"class {i}" for i in range(k)], "map": None} | more
    return Judged([f"{i}.jpg" for i in range(n)], truth, probabilities, **parts)


class TestReading:
    def test_what_does_not_fit_is_none(self):
        arrays = {"names": np.array([b"a", b"b"]), "truth": np.array([0, 1]), "probabilities_0": np.eye(2)}
        results = {"best": 0, "dataset": {"classes": ["x", "y"]}}
        assert read_tested(results, arrays).names == ["a", "b"]
        for change in (
            {"truth": np.array([0, 2])},
            {"names": np.array([b"a"])},
            {"probabilities_0": np.full((2, 2), np.nan)},
        ):
            assert read_tested(results, arrays | change) is None
        assert read_tested(results, arrays | {"map": np.zeros((5, 2))}).map is None
        assert read_tested(results, arrays | {"map": np.zeros((2, 2))}).map.shape == (2, 2)


class TestScores:
    def test_one_curve_a_class(self, results):
        picture = draw_roc(results, make_tested())
        assert "each class against the others" in picture.caption
        assert "ROC AUC: 0.981 [0.962, 0.995]" in picture.svg
        assert all(f"class {i}" in picture.svg for i in range(3))

    def test_two_classes_have_one(self, results):
        for draw in (draw_roc, draw_precision_recall):
            picture = draw(results, make_tested(2))
            assert "class 1 against the other class" in picture.caption
            assert "class 0" not in picture.svg

    def test_many_classes_have_their_mean(self, results):
        for draw in (draw_roc, draw_precision_recall):
            picture = draw(results, make_tested(9))
            assert "the mean over 9 classes" in picture.caption
            assert "class 3" not in picture.svg

    def test_calibration_says_each_bin(self):
        probabilities = np.array([[0.9, 0.1]] * 10 + [[0.61, 0.39]] * 4)
        truth = np.array([0] * 9 + [1] + [0, 0, 1, 1])
        tested = Judged(["x"] * 14, truth, probabilities, ["a", "b"], None)
        picture = draw_calibration(tested)
        assert "says 0.61, right in 0.50 [0.15, 0.85] of 4 images" in picture.svg
        assert "says 0.90, right in 0.90 [0.60, 0.98] of 10 images" in picture.svg
        assert "one group" not in picture.caption
        assert "images of one group as independent" in draw_calibration(tested, grouped=True).caption

    def test_none_without_predictions(self, results):
        assert (
            draw_roc(results, None) is draw_precision_recall(results, None) is draw_calibration(None) is None
        )

    def test_a_class_without_test_images_has_no_curve(self, results):
        tested = make_tested(3)
        tested.truth[tested.truth == 2] = 0
        assert "class 2" not in draw_roc(results, tested).svg
        tested.truth[:] = 0
        assert draw_roc(results, tested) is None


class TestCost:
    def test_the_front(self):
        assert pareto_front([(3, 0.9), (1, 0.8), (2, 0.7), (1, 0.6), (4, 0.9)]) == [1, 0]
        assert pareto_front([]) == []

    def test_says_seconds_and_scores(self, results):
        assert "logistic regression on pixels: 13 s, 0.680 [0.603, 0.749]" in draw_cost(results).svg
        results["rows"] = results["rows"][:1]
        assert draw_cost(results) is None

    def test_times_between_the_usual_ticks(self, results):
        for row in results["rows"]:
            row["seconds"] = {"fit": 20_000.0}
        assert "5 h 33 min" in draw_cost(results).svg

    def test_rows_without_seconds_are_left_out(self, results):
        for row in results["rows"][1:]:
            row["seconds"] = {}
        assert draw_cost(results) is None

    def test_depth_only_where_there_are_several_layers(self, results, build):
        assert draw_depths(results) == []
        deeper = copy.deepcopy(results["rows"][0]) | {"layer": "features.3:avg"}
        deeper["test"]["accuracy"] = {"value": 0.5, "low": 0.4, "high": 0.6}
        results["rows"].append(deeper)
        (picture,) = draw_depths(results)
        assert "the layers of mobilenet_v2" in picture.caption
        assert "features.3:avg, logistic regression: 0.500 [0.400, 0.600]" in picture.svg
        # Of each layer one head: the best by cross-validation.
        assert picture.svg.count("adaptive_avg_pool2d:flatten, ") == 1
        assert "adaptive_avg_pool2d:flatten, logistic regression: 0.941 [0.892, 0.969]" in picture.svg


class TestMap:
    def test_points_by_class_and_rings(self):
        places = np.random.default_rng(0).normal(size=(90, 2)).astype(np.float32)
        places[80:] = np.nan
        tested = make_tested(map=places)
        picture = draw_map(tested)
        wrong = int((tested.predicted != tested.truth)[:80].sum())
        assert f"{wrong} of 80 images shown are wrong" in picture.svg
        assert "80 of 90 images" in picture.caption
        assert "mislead" in picture.caption
        marks = re.findall(r"<use ", picture.svg)
        assert len(marks) == 80 + wrong + 3

    def test_none(self):
        assert draw_map(None) is draw_map(make_tested()) is None
        assert draw_map(make_tested(30, map=np.zeros((90, 2)))) is None
        assert draw_map(make_tested(map=np.full((90, 2), np.nan))) is None


class TestTraining:
    @pytest.fixture
    def curves(self):
        def entries(accuracies):
            return [
                {
                    "epoch": epoch,
                    "loss": 1 / epoch,
                    "accuracy": a,
                    "tuning_accuracy": a - 0.1,
                    "tuning_loss": 1.5 / epoch,
                    "seconds": 2.0,
                }
                for epoch, a in enumerate(accuracies, start=1)
            ]

        final = [{"epoch": 1, "loss": 0.5, "accuracy": 0.9, "seconds": 1.0}]
        return {"training": {"rate 0.1": entries([0.5, 0.7]), "rate 1": entries([0.6, 0.8]), "final": final}}

    def test_the_best_on_the_tuning_images(self, curves):
        assert chosen_training(curves)[0] == "rate 1"
        picture = draw_training(curves)
        assert "(rate 1)" in picture.caption
        assert "epoch 2: loss 0.500, on tuning images 0.750" in picture.svg

    def test_table(self, results, curves):
        (section,) = curve_sections(results, curves)
        assert section.table.rows == (
            ("rate 0.1", "2", "0.500", "0.600", "2", "4.0 s"),
            ("rate 1", "2", "0.500", "0.700", "2", "4.0 s"),
            ("final", "1", "0.500", "–", "–", "1.0 s"),
        )

    @pytest.mark.parametrize("training", [None, {}, {"a": []}, {"a": [{}]}, [1]])
    def test_none(self, results, training):
        assert draw_training({"training": training}) is None
        assert curve_sections(results, {"training": training}) == ()
