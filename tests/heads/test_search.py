"""The search: scikit-learn's own scores, an honest choice, probabilities, errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from featx.errors import DatasetError, UnknownNameError
from featx.heads import DEFAULT_HEADS, Head, find_head, list_heads, tune
from featx.heads import search as search_module
from featx.heads.paths import descent
from featx.heads.size import threads_for

SMALL = {
    "mlp": {"alpha": [1.0], "hidden_layer_sizes": [(4,)], "max_iter": [1000], "learning_rate_init": [0.1]}
}


def blobs(n=60, d=12, k=3, gap=1.5, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    X = rng.normal(size=(n, d)) + gap * rng.normal(size=(k, d))[y]
    return X.astype(np.float32), np.array(["ant", "bee", "cow", "dog"])[y]


@pytest.mark.parametrize("name", list_heads())
@pytest.mark.parametrize("k", [2, 3])
def test_saved_model_is_the_measured_one_and_calibration_changes_no_label(name, k):
    X, y = blobs(k=k, gap=0.7)
    tuned = tune(name, X, y, cv=3, grid=SMALL.get(name))
    plain = find_head(name).build()
    plain[-1].set_params(**tuned.best_params_)
    plain.fit(X, y)
    rows, _ = blobs(n=200, k=k, gap=0.7, seed=1)
    estimator = tuned.best_estimator_
    np.testing.assert_array_equal(estimator.predict(rows), plain.predict(rows))
    p = estimator.predict_proba(rows)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(estimator.classes_[p.argmax(axis=1)], estimator.predict(rows))
    np.testing.assert_array_equal(tuned.classes_, estimator.classes_)
    assert type(estimator).__module__.startswith("sklearn.")


def reference_search(head, folds, X, y, *, balanced=False, seed=5):
    """scikit-learn's own search, run to convergence in float64."""
    pipeline = head.build(seed, balanced)
    tight = {"tol": 1e-8, "max_iter": 100_000} if "tol" in pipeline[-1].get_params() else {}
    if head.name.endswith("svm"):
        tight = {"tol": 1e-6, "max_iter": -1}
    pipeline[-1].set_params(**{name: value for name, value in tight.items() if head.name != "ridge"})
    grid = {f"classifier__{key}": values for key, values in head.grid.items()}
    search = GridSearchCV(pipeline, grid, cv=folds, refit=False).fit(X.astype(np.float64), y)
    return np.array([search.cv_results_[f"split{i}_test_score"] for i in range(len(folds))]).T


@pytest.mark.parametrize("name", [name for name in list_heads() if name != "mlp"])
@pytest.mark.parametrize(
    ("n", "d", "k", "gap", "balanced"),
    [
        (120, 12, 3, 0.5, False),
        (120, 12, 2, 0.4, True),
        (90, 200, 4, 0.15, False),
        (100, 150, 2, 0.1, False),
        (102, 130, 3, 0.15, True),
    ],
)
def test_the_search_agrees_with_grid_search_run_to_convergence(name, n, d, k, gap, balanced):
    head = find_head(name)
    X, y = blobs(n, d, k, gap, seed=n)
    if balanced and not head.weighted:
        pytest.skip(f"{name} cannot weigh classes")
    if balanced:
        kept = (y != "ant") | (np.arange(n) % 2 == 0)
        X, y = X[kept], y[kept]
    X = X @ np.diag(np.geomspace(1, 0.05, d)).astype(np.float32)
    tuned = tune(name, X, y, cv=4, seed=5, balanced=balanced, scoring="accuracy", grid=head.grid)
    expected = reference_search(head, list(tuned.folds_), X, y, balanced=balanced).mean(axis=1)
    best, wanted = tuned.best_index_, int(expected.argmax())
    assert best == wanted or expected[wanted] - expected[best] <= 1 / len(y)
    near = slice(max(best - 1, 0), best + 2)
    allowed = max(2e-3, 2 / len(y))
    np.testing.assert_allclose(tuned.cv_scores_.mean(axis=1)[near], expected[near], atol=allowed)


@pytest.mark.parametrize("name", DEFAULT_HEADS)
def test_out_of_fold_probabilities_score_what_the_folds_scored(name):
    X, y = blobs(n=60, gap=0.6)
    tuned = tune(name, X, y, cv=3)
    labels = tuned.classes_[tuned.oof_.argmax(axis=1)]
    for fold, (_, valid) in enumerate(tuned.folds_):
        assert np.mean(labels[valid] == y[valid]) == pytest.approx(tuned.cv_scores_[tuned.best_index_, fold])
    np.testing.assert_allclose(tuned.oof_.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["linear-svm", "rbf-svm", "ridge"])
@pytest.mark.parametrize("k", [2, 3])
def test_out_of_fold_probabilities_have_the_models_temperature(name, k):
    X, y = blobs(n=60, k=k, gap=0.6)
    tuned = tune(name, X, y, cv=3)
    train, valid = tuned.folds_[0]
    plain = find_head(name).build()
    plain[-1].set_params(**tuned.best_params_)
    values = plain.fit(X[train], y[train]).decision_function(X[valid])
    logits = np.column_stack([-values, values]) if k == 2 else values
    beta = tuned.best_estimator_.calibrated_classifiers_[0].calibrators[0].beta_
    expected = np.exp(beta * logits)
    np.testing.assert_allclose(tuned.oof_[valid], expected / expected.sum(axis=1, keepdims=True), rtol=1e-3)


@pytest.mark.parametrize("name", [*DEFAULT_HEADS, "ridge"])
def test_labels_may_be_any_integers(name):
    X, y = blobs()
    numbers = np.unique(y, return_inverse=True)[1] * 10 - 7
    tuned, named = tune(name, X, numbers, cv=3), tune(name, X, y, cv=3)
    assert tuned.best_estimator_.classes_.tolist() == [-7, 3, 13]
    assert set(tuned.best_estimator_.predict(X)) == {-7, 3, 13}
    np.testing.assert_allclose(
        tuned.best_estimator_.predict_proba(X), named.best_estimator_.predict_proba(X), rtol=1e-6
    )


@pytest.mark.parametrize("name", [*DEFAULT_HEADS, "mlp"])
def test_the_result_depends_on_the_seed_and_not_on_jobs(name):
    X, y = blobs(gap=0.5)
    one, two = (tune(name, X, y, cv=3, seed=4, jobs=jobs, grid=SMALL.get(name)) for jobs in (None, 7))
    np.testing.assert_array_equal(one.cv_scores_, two.cv_scores_)
    np.testing.assert_array_equal(one.oof_, two.oof_)
    assert one.best_params_ == two.best_params_
    np.testing.assert_array_equal(one.best_estimator_.predict_proba(X), two.best_estimator_.predict_proba(X))
    other = tune(name, X, y, cv=3, seed=5, grid=SMALL.get(name))
    assert not np.array_equal(one.oof_, other.oof_)


def test_a_tuning_split_is_one_fold_and_the_final_fit_has_all_rows():
    X, y = blobs(n=40, k=2, gap=2.0)
    train, valid = np.arange(30), np.arange(30, 40)
    for name in DEFAULT_HEADS:
        tuned = tune(name, X, y, cv=[(train, valid)])
        assert tuned.cv_scores_.shape == (len(tuned.params_), 1)
        assert tuned.sd_ is None
        assert np.isnan(tuned.oof_[train]).all()
        assert not np.isnan(tuned.oof_[valid]).any()
        scaler = getattr(tuned.best_estimator_, "steps", None) or (
            tuned.best_estimator_.calibrated_classifiers_[0].estimator.steps
        )
        np.testing.assert_allclose(scaler[0][1].mean_, X.mean(axis=0), atol=1e-5)


def test_rows_outside_of_the_training_parts_do_not_touch_the_choice():
    X, y = blobs(n=40, k=2, gap=0.5)
    folds = [(np.arange(0, 20), np.arange(20, 30))]
    spoiled = X.copy()
    spoiled[30:] = 1e6
    one, two = (tune("logreg", rows, y, cv=folds) for rows in (X, spoiled))
    np.testing.assert_array_equal(one.cv_scores_, two.cv_scores_)
    np.testing.assert_array_equal(one.oof_, two.oof_)


def test_validation_rows_do_not_touch_their_own_scaling():
    X, y = blobs(n=40, k=2, gap=0.5)
    moved = X.copy()
    moved[20:] *= 100.0
    folds = [(np.arange(20), np.arange(20, 40))]
    tuned = tune("logreg", moved, y, cv=folds, grid={"C": [1.0]})
    reference = find_head("logreg").build().fit(moved[:20], y[:20])
    np.testing.assert_allclose(tuned.oof_[20:], reference.predict_proba(moved[20:]), atol=1e-3)


def test_groups_are_whole_in_every_fold():
    X, y = blobs(n=60, k=2)
    groups = np.repeat(np.arange(12), 5)
    for train, valid in tune("linear-svm", X, y, cv=3, groups=groups).folds_:
        assert not set(groups[train]) & set(groups[valid])


def test_equal_scores_of_a_margin_are_decided_for_the_first_of_the_grid():
    X, y = blobs(k=2, gap=4.0)
    tuned = tune("linear-svm", X, y, grid={"C": [0.1, 1.0, 10.0]}, cv=3)
    assert np.ptp(tuned.cv_scores_.mean(axis=1)) == 0
    assert tuned.best_params_ == {"C": 0.1}


def test_equal_scores_of_probabilities_are_decided_by_log_loss():
    X, y = blobs(k=2, gap=4.0)
    tuned = tune("logreg", X, y, grid={"C": [1e-4, 1.0]}, cv=3)
    assert np.ptp(tuned.cv_scores_.mean(axis=1)) == 0
    assert tuned.best_params_ == {"C": 1.0}


def test_out_of_fold_is_the_same_when_responses_are_not_kept(monkeypatch):
    X, y = blobs(gap=0.5)
    kept = tune("rbf-svm", X, y, cv=3)
    monkeypatch.setattr(search_module, "_KEPT_BYTES", 0)
    again = tune("rbf-svm", X, y, cv=3)
    np.testing.assert_array_equal(kept.oof_, again.oof_)
    np.testing.assert_array_equal(kept.cv_scores_, again.cv_scores_)


def impatient():
    return Head(
        "impatient", "Stops early", lambda seed, weight: LogisticRegression(max_iter=2), {"C": (1.0, 100.0)}
    )


@pytest.mark.parametrize("jobs", [None, 4])
def test_missing_convergence_is_recorded_and_not_raised(jobs):
    X, y = blobs(gap=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuned = tune(impatient(), X, y, cv=3, jobs=jobs)
    assert tuned.warnings_[:3] == (
        "no convergence at C=1 in 3 of 3 folds",
        "no convergence at C=100 in 3 of 3 folds",
        "the final fit did not converge",
    )


def test_a_machine_that_does_not_converge_is_recorded():
    X, y = blobs(gap=0.3)
    head = Head("hasty", "Stops early", lambda seed, weight: SVC(max_iter=2), {"C": (1.0,)})
    tuned = tune(head, X, y, cv=3, jobs=3)
    assert tuned.warnings_ == (
        "no convergence at C=1 in 3 of 3 folds",
        "the final fit did not converge",
    )


class Chatty(LogisticRegression):
    def fit(self, X, y, sample_weight=None):
        warnings.warn("something else", UserWarning, stacklevel=2)
        return super().fit(X, y, sample_weight)


def test_other_warnings_reach_the_caller():
    X, y = blobs()
    head = Head("chatty", "Warns", lambda seed, weight: Chatty(), {"C": (1.0,)})
    with pytest.warns(UserWarning, match="something else"):
        tuned = tune(head, X, y, cv=3)
    assert tuned.warnings_ == ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        before = list(warnings.filters)
        tune("logreg", X, y, cv=3)
        assert list(warnings.filters) == before


def test_a_choice_on_the_edge_of_the_grid_is_said():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 200)
    y = np.where(np.sin(3 * angle) > 0, "a", "b")
    X = np.column_stack([np.cos(angle), np.sin(angle)])
    tuned = tune("rbf-svm", X, y, grid={"C": [1e-3, 1e-2, 1.0]}, cv=3)
    assert tuned.best_params_ == {"C": 1.0}
    assert tuned.warnings_ == ("C=1 lies on the edge of the grid; a wider one may do better",)
    assert not any("edge" in text for text in tune("rbf-svm", X, y, cv=3, grid={"C": [1.0]}).warnings_)


def test_parameters_are_counted():
    X, y = blobs(n=60, d=12, k=3)
    counts = {name: tune(name, X, y, cv=3, grid=SMALL.get(name)).n_parameters_ for name in list_heads()}
    assert counts["logreg"] == counts["ridge"] == counts["linear-svm"] == 3 * 12 + 3
    assert counts["knn"] == 60 * 12
    assert counts["mlp"] == 12 * 4 + 4 + 4 * 3 + 3
    tuned = tune("rbf-svm", X, y, cv=3)
    inner = tuned.best_estimator_.calibrated_classifiers_[0].estimator[-1]
    assert tuned.n_parameters_ == len(inner.support_) * (12 + 2) + 3


def test_small_sets_leave_out_impossible_neighbours():
    X, y = blobs(n=12, k=2)
    tuned = tune("knn", X, y, cv=3)
    assert max(point["n_neighbors"] for point in tuned.params_) == 5
    with pytest.raises(
        DatasetError,
        match="None of the 1 grid points of head 'knn' can be fitted on 8 images of 12 numbers each",
    ):
        tune("knn", X, y, cv=3, grid={"n_neighbors": [9]})


@pytest.mark.parametrize("name", list_heads())
def test_constant_features_are_harmless(name):
    X, y = blobs(k=2)
    X[:, 3] = 7.0
    assert tune(name, X, y, cv=3, grid=SMALL.get(name)).mean_score_ > 0.9
    flat = tune(name, np.ones_like(X), y, cv=3, grid=SMALL.get(name))
    assert flat.mean_score_ == pytest.approx(0.5)


def test_float16_and_lists_are_taken():
    X, y = blobs(k=2)
    half = tune("logreg", X.astype(np.float16), list(y), cv=3)
    assert half.best_estimator_.predict(X[:2].astype(np.float32)).tolist() == ["ant", "bee"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"y": ["ant"] * 60},
            "All 60 images have the label 'ant': a head needs images of at least two classes",
        ),
        ({"y": ["ant"] * 58 + ["bee"] * 2}, "Class 'bee' has 2 training images, fewer than the 5 folds"),
        ({"y": ["ant", "bee"] * 20}, r"X has shape \(60, 12\) and y \(40,\): give one row of X"),
        ({"y": ["ant", None] * 30}, "30 of 60 images have no label"),
        ({"y": ["ant", ""] * 30}, "30 of 60 images have no label"),
        ({"X": np.zeros((60, 0))}, "there is nothing to fit"),
        ({"X": np.full((60, 2), np.nan)}, "60 of 60 rows of X hold NaN or infinity .*is row 0"),
        ({"X": np.full((60, 2), 1e300)}, "rows of X hold NaN or infinity"),
        ({"groups": np.arange(60) % 3}, "3 groups for 5 folds"),
    ],
)
def test_bad_input_says_what_to_do(change, text):
    X, y = blobs()
    arguments = {"X": X, "y": y} | change
    with pytest.raises(DatasetError, match=text):
        tune("logreg", arguments.pop("X"), arguments.pop("y"), **arguments)


def test_one_nan_names_its_row():
    X, y = blobs()
    X[17, 3] = np.inf
    with pytest.raises(DatasetError, match=r"^1 of 60 rows of X .*first is row 17.* extract them again"):
        tune("logreg", X, y)


@pytest.mark.parametrize("name", ["linear-svm", "ridge"])
def test_a_class_that_no_fold_validates_has_probabilities_all_the_same(name):
    X, y = blobs(n=45, k=3)
    valid = np.flatnonzero(y != "cow")[20:]
    tuned = tune(name, X, y, cv=[(np.setdiff1d(np.arange(45), valid), valid)])
    p = tuned.best_estimator_.predict_proba(X)
    assert p.shape == (45, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(tuned.best_estimator_.classes_, ["ant", "bee", "cow"])
    np.testing.assert_array_equal(tuned.classes_[p.argmax(axis=1)], tuned.best_estimator_.predict(X))


def test_unknown_parameter_names_the_near_ones():
    X, y = blobs()
    with pytest.raises(UnknownNameError, match=r"parameter of head 'rbf-svm' 'gama'. Did you mean 'gamma'"):
        tune("rbf-svm", X, y, grid={"gama": [1]})
    tuned = tune("rbf-svm", X, y, cv=3, grid={"C": [1.0, 10.0], "gamma": [0.01, 0.1]})
    assert tuned.cv_scores_.shape == (4, 3)


def test_row_lengths_and_components_can_be_searched():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = (rng.normal(size=(90, 30)) + 2 * np.eye(3, 30)[y]).astype(np.float32)
    X *= rng.lognormal(0, 3, size=(90, 1)).astype(np.float32)  # the length of a row says nothing
    tuned = tune("logreg", X, y, cv=3, grid={"l2": [False, True], "pca": [None, 5]})
    assert tuned.best_params_["l2"] is True
    assert {(point["l2"], point["pca"]) for point in tuned.params_} == {
        (False, None),
        (False, 5),
        (True, None),
        (True, 5),
    }
    plain = find_head("logreg").build(l2=True, pca=tuned.best_params_["pca"])
    plain[-1].set_params(C=tuned.best_params_["C"])
    np.testing.assert_array_equal(tuned.best_estimator_.predict(X), plain.fit(X, y).predict(X))
    for train, valid in tuned.folds_:
        expected = plain.fit(X[train], y[train]).predict_proba(X[valid])
        np.testing.assert_allclose(tuned.oof_[valid], expected, atol=5e-3)


def test_more_components_than_images_are_left_out():
    X, y = blobs(n=30)
    tuned = tune("ridge", X, y, cv=3, grid={"pca": [4, 100]})
    assert {point["pca"] for point in tuned.params_} == {4}
    with pytest.raises(DatasetError, match="can be fitted on 20 images of 12 numbers each"):
        tune("ridge", X, y, cv=3, grid={"pca": [13]})


def bent(n=120):
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.column_stack([np.cos(angle), np.sin(angle)]), np.where(np.sin(9 * angle) > 0, "a", "b")


def test_a_choice_on_the_edge_widens_the_heads_own_grid():
    X, y = bent()
    tuned = tune("rbf-svm", X, y, cv=3)
    assert tuned.best_params_["C"] > 1000
    assert [point["C"] for point in tuned.params_[:5]] == [0.1, 1, 10, 100, 1000]
    assert tuned.cv_scores_.shape == (len(tuned.params_), 3)
    assert tuned.params_[tuned.best_index_] == tuned.best_params_
    assert any("the best point of the grid, C=1000, lay on its edge" in text for text in tuned.warnings_)
    beyond = tune("rbf-svm", X, y, cv=3, grid={"C": [point["C"] for point in tuned.params_]})
    np.testing.assert_array_equal(beyond.cv_scores_, tuned.cv_scores_)


def test_a_grid_is_widened_at_its_regularised_end_too():
    rng = np.random.default_rng(1)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 400)) + 0.12 * y[:, None]
    head = find_head("logreg")
    short = Head("short", "Short", head.make, {"C": (10.0, 100.0)}, path=head.path, finish=head.finish)
    tuned = tune(short, X, y, cv=3)
    values = [point["C"] for point in tuned.params_]
    assert values == sorted(values)
    assert tuned.best_params_["C"] < 10
    assert "C=10, lay on its edge" in tuned.warnings_[0]


def test_weighed_classes_are_chosen_by_balanced_accuracy():
    rng = np.random.default_rng(3)
    y = np.repeat(["common", "rare"], [180, 20])
    X = rng.normal(size=(200, 6)) + 1.2 * (y == "rare")[:, None]
    tuned = tune("logreg", X, y, cv=4, balanced=True)
    assert tuned.scoring_ == "balanced_accuracy"
    said = tuned.classes_[tuned.oof_.argmax(axis=1)]
    for fold, (_, valid) in enumerate(tuned.folds_):
        expected = balanced_accuracy_score(y[valid], said[valid])
        assert tuned.cv_scores_[tuned.best_index_, fold] == pytest.approx(expected)
        assert tuned.accuracy_[fold] == pytest.approx(np.mean(said[valid] == y[valid]))
    plain = tune("logreg", X, y, cv=4, balanced=True, scoring="accuracy")
    assert plain.cv_scores_[plain.best_index_].mean() >= tuned.accuracy_.mean()
    with pytest.raises(UnknownNameError, match="scoring 'f1'"):
        tune("logreg", X, y, cv=4, scoring="f1")


def test_a_grid_of_widths_alone_is_searched():
    X, y = blobs()
    tuned = tune("rbf-svm", X, y, cv=3, grid={"gamma": ["scale", "auto", 0.1]})
    plain = find_head("rbf-svm").build()
    for index, gamma in enumerate(["scale", "auto", 0.1]):
        plain[-1].set_params(gamma=gamma)
        scores = [plain.fit(X[train], y[train]).score(X[valid], y[valid]) for train, valid in tuned.folds_]
        np.testing.assert_allclose(tuned.cv_scores_[index], scores)


def test_a_fit_is_counted_once_a_fold_whatever_comes_before_it(monkeypatch):
    X, y = blobs(gap=0.3)
    head = Head("short", "Stops early", lambda seed, weight: LogisticRegression(max_iter=2), {"C": (1.0,)})
    grid = {"C": [1.0], "l2": [False, True]}
    monkeypatch.setattr(search_module, "_KEPT_BYTES", 0)
    assert tune(head, X, y, cv=3, grid=grid).warnings_[:2] == (
        "no convergence at C=1, l2=False in 3 of 3 folds",
        "no convergence at C=1, l2=True in 3 of 3 folds",
    )


def test_a_descent_that_runs_out_of_steps_is_reported(monkeypatch):
    monkeypatch.setattr(descent, "_STEPS", 3)
    X, y = blobs(gap=0.3)
    texts = tune("logreg", X, y, cv=3, grid={"C": [100.0]}).warnings_
    assert texts[0] == "no convergence at C=100 in 3 of 3 folds"


@pytest.mark.parametrize("missing", [np.nan, None, ""])
def test_a_label_that_is_no_value_is_missing(missing):
    X, y = blobs(n=40, k=2)
    labels = y.astype(object)
    labels[::4] = missing
    with pytest.raises(DatasetError, match="10 of 40 images have no label"):
        tune("logreg", X, labels)


def test_labels_are_classes_and_no_quantities():
    X, y = blobs(n=40, k=2)
    codes = (y == "ant").astype(float)
    assert tune("ridge", X, codes, cv=3).classes_.tolist() == [0, 1]
    assert tune("ridge", X, y.astype("S"), cv=3).classes_.tolist() == ["ant", "bee"]
    with pytest.raises(DatasetError, match=r"numbers with fractions, such as 0\.5: a head tells classes"):
        tune("ridge", X, codes / 2)


def test_threads_are_fewer_where_their_rows_would_not_fit(monkeypatch):
    pages = {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("featx.heads.size.os.sysconf", pages.__getitem__)
    assert threads_for(8, 100_000) == 5
    assert threads_for(8, 10**9) == 1
    assert threads_for(2, 1_000) == 2


def test_penalties_that_leave_nothing_but_the_direction_are_solved_too():
    X, y = blobs(n=90, k=3, gap=1.0)
    tuned = tune("logreg", X, y, cv=3, grid={"C": [1e-8, 1e-6]})
    assert (tuned.cv_scores_.mean(axis=1) > 0.8).all()
