"""The whole protocol with several seeds."""

import numpy as np
import pytest

import featx
from featx import experiment
from featx.errors import DatasetError

QUICK = {"heads": ["ridge", "knn"], "cv": 3, "jobs": 1, "learning_curve": False}


@pytest.fixture
def make_store(tmp_path):
    def make(**more):
        rng = np.random.default_rng(0)
        y = np.tile(["a", "b"], 30)
        X = rng.normal(size=(60, 5)) + 0.8 * (y[:, None] == "b")
        return featx.FeatureStore.from_arrays(tmp_path / "x.h5", X, y, **more).path

    return make


def scores(results):
    return [(row.cv["mean"], row.test["accuracy"].value) for row in results.rows]


class TestRepeats:
    def test_are_the_runs_of_each_seed(self, make_store):
        path = make_store()
        repeated = featx.fit(path, seed=5, repeats=3, **QUICK)
        single = [featx.fit(path, seed=seed, **QUICK) for seed in (5, 6, 7)]
        assert scores(repeated) == scores(single[0])
        assert repeated.test_names == single[0].test_names
        assert repeated.best == single[0].best
        for index, row in enumerate(repeated.rows):
            found = row.repeats
            assert found["seeds"] == [5, 6, 7]
            assert list(zip(found["cv"], found["test"], strict=True)) == [
                scores(one)[index] for one in single
            ]
            assert found["mean"] == pytest.approx(np.mean(found["test"]))
            assert found["sd"] == pytest.approx(np.std(found["test"], ddof=1))
            assert found["won"] == sum(one.best == index for one in single)
        assert sum(row.repeats["won"] for row in repeated.rows) == 3
        assert len({one.test_names for one in single}) == 3

    def test_say_what_their_spread_is_of(self, make_store):
        results = featx.fit(make_store(), repeats=2, **QUICK)
        found = results.best_row.repeats
        said = f"over 2 seeds (0 to 1) the best row has test accuracy {found['mean']:.3f} ± {found['sd']:.3f}"
        (note,) = [note for note in results.dataset["notes"] if "seeds" in note]
        assert note.startswith(said)
        assert "each seed holds out other images" in note

    def test_with_a_test_of_its_own_only_the_folds_vary(self, make_store):
        results = featx.fit(make_store(splits=np.repeat(["train", "test"], 30)), repeats=3, **QUICK)
        (note,) = [note for note in results.dataset["notes"] if "seeds" in note]
        assert "the test images are always the same" in note
        assert len(set(results.best_row.repeats["cv"])) > 1

    def test_with_nested_folds(self, make_store):
        path = make_store()
        repeated = featx.fit(path, nested=True, repeats=2, **QUICK)
        second = featx.fit(path, nested=True, seed=1, **QUICK)
        assert [row.repeats["test"][1] for row in repeated.rows] == [
            accuracy for _, accuracy in scores(second)
        ]
        (note,) = [note for note in repeated.dataset["notes"] if "seeds" in note]
        assert "of the folds and of the solver's draws, on the same images" in note

    def test_with_nested_folds_beside_a_test(self, make_store):
        path = make_store(splits=np.repeat(["train", "test"], 30))
        repeated = featx.fit(path, nested=True, repeats=2, **QUICK)
        second = featx.fit(path, nested=True, seed=1, **QUICK)
        for row, other in zip(repeated.rows, second.rows, strict=True):
            assert row.repeats["nested"] == [row.cv["nested"]["value"], other.cv["nested"]["value"]]

    def test_go_into_the_report(self, make_store, tmp_path):
        featx.fit(make_store(), repeats=2, output=tmp_path / "run", **QUICK)
        assert "## With other seeds" in (tmp_path / "run" / "report.md").read_text()

    def test_none_asked_for(self, make_store):
        assert featx.fit(make_store(), **QUICK).rows[0].repeats is None

    def test_progress_tells_them_apart(self, make_store):
        steps = []
        featx.fit(make_store(), repeats=2, on_progress=steps.append, **QUICK)
        assert [step.done for step in steps if step.stage == "repeat 2 of 2"] == [0, 1, 2]

    @pytest.mark.parametrize(("repeats", "seed"), [(0, 0), (3, 2**32 - 2)])
    def test_impossible(self, make_store, repeats, seed):
        with pytest.raises(DatasetError, match=f"{repeats} repeats from the seed {seed}"):
            featx.fit(make_store(), repeats=repeats, seed=seed, **QUICK)

    def test_a_seed_that_cannot_be_is_known_before_any_fit(self, make_store, monkeypatch):
        steps, make_plan = [], experiment.make_plan

        def fail(data, *, seed, **options):
            if seed == 2:
                raise DatasetError("a class is missing")
            return make_plan(data, seed=seed, **options)

        monkeypatch.setattr(experiment, "make_plan", fail)
        with pytest.raises(DatasetError, match="a class is missing"):
            featx.fit(make_store(), repeats=3, on_progress=steps.append, **QUICK)
        assert not [step for step in steps if step.stage == "fit"]
