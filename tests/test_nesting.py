"""Nested cross-validation: folds, scores that no choice has seen, and what a run says of them."""

import dataclasses
import json

import numpy as np
import pytest

import featx
from featx import fitted, nesting
from featx.errors import DatasetError
from featx.evaluation.intervals import wilson
from featx.heads.catalog import find_head
from featx.heads.search import tune
from featx.nesting import make_outer_folds, predict_nested

QUICK = {"heads": ["ridge"], "cv": 3, "jobs": 1, "learning_curve": False}


def arrays(n=60, d=6, distance=2.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.tile(["ant", "bee", "wasp"], n // 3)
    X = rng.normal(size=(n, d)) + distance * (y[:, None] == ["ant", "bee", "wasp"]) @ np.eye(3, d)
    return X.astype(np.float32), y


@pytest.fixture
def make_store(tmp_path):
    def make(X=None, y=None, name="x", **more):
        if X is None:
            X, y = arrays()
        return featx.FeatureStore.from_arrays(tmp_path / f"{name}.h5", X, y, **more).path

    return make


class TestFolds:
    def test_every_row_is_scored_once_and_never_seen(self):
        _, y = arrays()
        folds = make_outer_folds(y, 4, 3, None, 0)
        assert sorted(np.concatenate([fold.valid for fold in folds]).tolist()) == list(range(60))
        for fold in folds:
            assert not np.intersect1d(fold.train, fold.valid).size
            assert len(fold.inner) == 3
            for train, valid in fold.inner:
                assert sorted([*train, *valid]) == list(range(len(fold.train)))

    def test_groups_are_whole_outside_and_inside(self):
        _, y = arrays()
        groups = np.random.default_rng(1).integers(20, size=60)
        for fold in make_outer_folds(y, 4, 3, groups, 0):
            assert not set(groups[fold.train]) & set(groups[fold.valid])
            inside = groups[fold.train]
            for train, valid in fold.inner:
                assert not set(inside[train]) & set(inside[valid])

    def test_what_an_outer_fold_leaves_must_do_for_the_inner_ones(self):
        y = np.repeat(["a", "b"], [30, 4])
        with pytest.raises(DatasetError, match=r"In outer fold 1 of 4 of the nested .*'b' has 3 .* 4 folds"):
            make_outer_folds(y, 4, 4, None, 0)


class TestScores:
    def test_labels_that_mean_nothing(self):
        """The best of a grid looks better than chance on pure noise; nested, it does not."""
        head, tuned, nested = find_head("knn"), [], []
        for seed in range(16):
            rng = np.random.default_rng(seed)
            X, y = rng.normal(size=(48, 8)).astype(np.float32), rng.permutation(np.tile(["a", "b"], 24))
            options = {"groups": None, "seed": seed, "balanced": False, "jobs": 1}
            tuned.append(tune(head, X, y, cv=4, seed=seed).mean_score_)
            found = predict_nested(head, X, y, make_outer_folds(y, 4, 4, None, seed), **options)
            nested.append((np.array(["a", "b"])[found.probabilities.argmax(axis=1)] == y).mean())
        error = np.std(nested, ddof=1) / 4
        assert np.mean(tuned) - 0.5 > 4 * np.std(tuned, ddof=1) / 4
        assert abs(np.mean(nested) - 0.5) < 3 * error

    def test_are_those_of_heads_fitted_by_hand(self):
        X, y = arrays(distance=1.0)
        folds = make_outer_folds(y, 4, 3, None, 0)
        steps = []
        found = predict_nested(
            find_head("logreg"),
            X,
            y,
            folds,
            groups=None,
            seed=0,
            balanced=False,
            jobs=1,
            on_fold=lambda: steps.append(1),
        )
        assert len(steps) == 4
        for fold, mean in zip(folds, found.inner_means, strict=True):
            by_hand = tune("logreg", X[fold.train], y[fold.train], cv=fold.inner)
            expected = by_hand.best_estimator_.predict_proba(X[fold.valid])
            np.testing.assert_allclose(found.probabilities[fold.valid], expected)
            assert mean == by_hand.mean_score_


class TestInPlaceOfAHoldOut:
    def test_every_image_is_tested_and_learned_from(self, make_store):
        results = featx.fit(make_store(), nested=True, outer_folds=4, **QUICK)
        assert len(results.test_names) == len(set(results.test_names)) == 60
        splits = results.dataset["splits"]
        assert (splits["train"], splits["test"]) == (60, 60)
        assert results.dataset["counts"] == {"train and test": {"ant": 20, "bee": 20, "wasp": 20}}
        assert splits["origin"] == "nested cross-validation, 4 outer folds of all 60 labelled images"
        assert results.settings["outer_folds"] == 4
        right = results.predictions[0].probabilities.argmax(axis=1) == results.truth
        assert results.best_row.test["accuracy"] == wilson(int(right.sum()), 60)
        # The final model is fitted on all of them.
        assert results.estimator.n_features_in_ == 6
        assert (results.predictions[0].out_of_fold >= 0).all()

    def test_no_head_saw_what_it_predicts(self, make_store, monkeypatch):
        X, y = arrays()
        seen = []

        def watch(head, X, y, **options):
            found = tune(head, X, y, **options)
            known = {row.tobytes() for row in X}

            class Watched:
                def predict_proba(self, rows):
                    seen.append(sum(row.tobytes() in known for row in rows))
                    return found.best_estimator_.predict_proba(rows)

            return dataclasses.replace(found, best_estimator_=Watched())

        monkeypatch.setattr(nesting, "tune", watch)
        featx.fit(make_store(X, y), nested=True, **QUICK)
        assert seen == [0, 0, 0]

    def test_groups_never_straddle(self, make_store, monkeypatch, tmp_path):
        X, y = arrays()
        patients = np.random.default_rng(2).integers(15, size=60)
        group_of = {row.tobytes(): patient for row, patient in zip(X, patients, strict=True)}
        fits = []

        def watch(head, X, y, **options):
            found = tune(head, X, y, **options)
            named = np.array([group_of[row.tobytes()] for row in X])
            for train, valid in found.folds_:
                assert not set(named[train]) & set(named[valid])
            fits.append(set(named))

            class Watched:
                def predict_proba(self, rows):
                    assert not {group_of[row.tobytes()] for row in rows} & set(named)
                    return found.best_estimator_.predict_proba(rows)

            return dataclasses.replace(found, best_estimator_=Watched())

        monkeypatch.setattr(nesting, "tune", watch)
        monkeypatch.setattr(fitted, "tune", watch)
        rows = [
            f"row-{row:06},{label},{patient}"
            for row, (label, patient) in enumerate(zip(y, patients, strict=True))
        ]
        (tmp_path / "labels.csv").write_text("\n".join(["name,label,patient", *rows]))
        results = featx.fit(
            make_store(X, y), labels=tmp_path / "labels.csv", group="patient", nested=True, **QUICK
        )
        assert len(fits) == 4
        assert results.dataset["splits"]["test_groups"] == 15

    def test_the_choice_of_the_row_is_made_anew_in_each_outer_fold(self, make_store):
        X, y = arrays(distance=0.8, n=90)
        results = featx.fit(make_store(X, y), nested=True, **{**QUICK, "heads": ["ridge", "knn", "logreg"]})
        nested = results.dataset["splits"]["nested"]
        assert len(nested["chosen"]) == 3
        notes = results.dataset["notes"]
        figure = f"{nested['accuracy']['value']:.3f} [{nested['accuracy']['low']:.3f}"
        assert any("not the choice among 3 rows" in note and figure in note for note in notes)
        assert any("Bengio and Grandvalet 2004" in note for note in notes)
        # By hand: each outer fold by the row with its best inner score.
        folds = make_outer_folds(y, 3, 3, None, 0)
        right = 0
        for fold, chosen in zip(folds, nested["chosen"], strict=True):
            found = [
                tune(head, X[fold.train], y[fold.train], cv=fold.inner) for head in ("ridge", "knn", "logreg")
            ]
            means = [one.mean_score_ for one in found]
            assert chosen == means.index(max(means))
            right += int((found[chosen].best_estimator_.predict(X[fold.valid]) == y[fold.valid]).sum())
        assert nested["accuracy"]["value"] == pytest.approx(right / 90)

    def test_copies_in_other_outer_folds_are_leaks(self, make_store):
        X, y = arrays()
        digests = np.random.default_rng(0).integers(0, 256, (60, 32), dtype=np.uint8)
        folds = make_outer_folds(y, 3, 3, None, 0)
        one, same = folds[0].valid[0], folds[0].valid[1]
        other = next(row for row in folds[1].valid if y[row] == y[one])
        digests[other] = digests[one]
        results = featx.fit(make_store(X, y, digests=digests), nested=True, **QUICK)
        audit = results.dataset["audit"]
        assert audit["duplicates"]["count"] == audit["leaked_test"] == 2
        kept = np.setdiff1d(np.arange(60), [one, other])
        right = results.predictions[0].probabilities.argmax(axis=1) == results.truth
        clean = results.best_row.test["accuracy_without_leaks"].value
        assert clean == pytest.approx(right[kept].mean())
        # Two copies in one outer fold are in no training part that predicts them.
        digests[other], digests[same] = 7, digests[one]
        results = featx.fit(make_store(X, y, "y", digests=digests), nested=True, **QUICK)
        assert results.dataset["audit"]["duplicates"]["count"] == 0

    def test_the_run_folder_is_whole(self, make_store, tmp_path):
        featx.fit(make_store(), nested=True, output=tmp_path / "run", **QUICK)
        assert "nested cross-validation, 3 outer folds" in (tmp_path / "run" / "report.md").read_text()
        card = featx.Model.load(tmp_path / "run").card
        assert card["n_images"] == card["n_test"] == 60
        assert any("fitted without one outer fold each" in limit for limit in card["limits"])


class TestBesideATestSplit:
    def test_stands_beside_the_tuning_score(self, make_store):
        X, y = arrays(distance=1.0)
        splits = np.repeat(["train", "test"], [42, 18])
        path = make_store(X, y, splits=splits)
        plain, nested = featx.fit(path, **QUICK), featx.fit(path, nested=True, **QUICK)
        assert nested.test_names == plain.test_names
        assert nested.best_row.test == plain.best_row.test
        assert nested.best_row.cv["mean"] == plain.best_row.cv["mean"]
        found = predict_nested(
            find_head("ridge"),
            X[:42],
            y[:42],
            make_outer_folds(y[:42], 3, 3, None, 0),
            groups=None,
            seed=0,
            balanced=False,
            jobs=1,
        )
        right = np.array(["ant", "bee", "wasp"])[found.probabilities.argmax(axis=1)] == y[:42]
        assert nested.best_row.cv["nested"] == dataclasses.asdict(wilson(int(right.sum()), 42))
        assert any("inside the training part" in note for note in nested.dataset["notes"])
        json.dumps(nested.to_json(), allow_nan=False)

    def test_a_val_split_joins_the_training_part(self, make_store):
        splits = np.repeat(["train", "val", "test"], 20)
        results = featx.fit(make_store(*arrays(), splits=splits), nested=True, **QUICK)
        counts = results.dataset["splits"]
        assert (counts["train"], counts["test"], "tuning" in counts) == (40, 20, False)
        assert results.settings["folds"] == 3
        note = "the val split's 20 images count as training images"
        assert any(note in said for said in results.dataset["notes"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"outer_folds": 4}, "4 outer folds without nested cross-validation; add --nested"),
        ({"nested": True, "outer_folds": 1}, "1 outer folds, expected at least 2"),
        (
            {"nested": True, "test_size": 0.3},
            r"test size of 0\.3 .* holds nothing out: leave out --test-size",
        ),
        ({"nested": True, "outer_folds": 30}, "30 folds"),
    ],
)
def test_what_cannot_be(make_store, options, text):
    with pytest.raises(DatasetError, match=text):
        featx.fit(make_store(), **{**QUICK, **options})
