"""Swapped labels are found, clean ones left alone; the numbers are cleanlab's."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from featx.errors import DatasetError
from featx.evaluation.label_errors import is_guessing, suspect_labels


@pytest.fixture
def without_cleanlab(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)


def swapped(seed=0, n=400, k=4, share=0.05, gap=4.0):
    """Labels of which a share was swapped, where they were, and out-of-fold probabilities."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % k
    X = rng.normal(size=(n, 8)) + gap * np.eye(k, 8)[truth]
    labels = truth.copy()
    planted = rng.choice(n, round(share * n), replace=False)
    labels[planted] = (labels[planted] + rng.integers(1, k, len(planted))) % k
    p = cross_val_predict(LogisticRegression(C=1.0), X, labels, cv=5, method="predict_proba")
    return labels, p, planted


@pytest.mark.usefixtures("without_cleanlab")
class TestPlanted:
    @pytest.mark.parametrize("seed", range(4))
    def test_most_swapped_labels_are_found_and_hardly_any_other(self, seed):
        labels, p, planted = swapped(seed, n=800, gap=5.0)
        found = suspect_labels(labels, p)
        right = np.isin(found.rows, planted).sum()
        assert right >= 0.85 * len(planted)
        assert right >= 0.9 * len(found.rows)
        assert found.checked == 800
        assert found.method == "confident learning"

    @pytest.mark.parametrize("seed", range(3))
    def test_a_clean_set_gives_next_to_none(self, seed):
        labels, p, _ = swapped(seed, share=0)
        assert len(suspect_labels(labels, p).rows) <= 4

    def test_the_most_suspect_come_first(self):
        p = np.tile([[0.9, 0.1]], (10, 1))
        p[5:] = p[5:, ::-1]
        p[4], p[9], p[7] = (0.2, 0.8), (0.99, 0.01), (0.95, 0.05)
        found = suspect_labels(np.arange(10) // 5, p)
        assert found.rows.tolist() == [9, 7, 4]
        assert found.contradicted == 3

    def test_equals_keep_their_order(self):
        p = np.tile([[1.0, 0.0], [0.0, 1.0]], (20, 1))
        labels = np.tile([0, 1], 20)
        labels[[30, 11, 4]] = 1 - labels[[30, 11, 4]]
        assert suspect_labels(labels, p).rows.tolist() == [4, 11, 30]

    def test_doubt_is_no_suspicion(self):
        """Another class is the most probable, but less so than for images that are of it."""
        p = np.array([[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5 + [[0.45, 0.55]])
        found = suspect_labels([0] * 5 + [1] * 5 + [0], p)
        assert found.rows.tolist() == []
        assert found.contradicted == 1

    def test_a_label_that_is_the_most_probable_class_is_not_suspect(self):
        """By their number, three of the second class would be of the first; two of them are not ahead."""
        first = np.array([0.1, 0.4, 0.4, 0.0, 0.0, 1.0, 0.7, 0.2, 0.4])
        found = suspect_labels([0, 1, 1, 0, 1, 0, 1, 1, 0], np.column_stack([first, 1 - first]))
        assert found.rows.tolist() == [3, 0, 6]

    def test_rows_without_probabilities_are_not_looked_at(self):
        p = np.array([[0.9, 0.1], [np.nan, np.nan], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.95, 0.05]])
        found = suspect_labels([0, 0, 0, 1, 1, 1], p)
        assert (found.rows.tolist(), found.checked) == ([5], 5)

    def test_one_class_or_no_row_has_no_suspects(self):
        assert suspect_labels([1, 1], [[0.9, 0.1], [0.1, 0.9]]).rows.tolist() == []
        assert suspect_labels([0, 1], np.full((2, 2), np.nan)).checked == 0
        assert suspect_labels(np.empty(0, int), np.empty((0, 3))).rows.tolist() == []


def test_shapes_are_checked():
    with pytest.raises(DatasetError, match=r"labels of shape \(3,\) and probabilities of shape \(2, 2\)"):
        suspect_labels([0, 1, 0], np.eye(2))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(2, 6), n=st.integers(12, 60), sharp=st.floats(0.2, 4))
def test_the_numbers_are_those_of_cleanlab(seed, k, n, sharp):
    pytest.importorskip("cleanlab", reason="needs the extra audit (cleanlab)")
    rng = np.random.default_rng(seed)
    labels = np.append(np.arange(k), rng.integers(0, k, n - k))
    p = rng.dirichlet(np.full(k, 0.5), n) + sharp * np.eye(k)[np.where(rng.random(n) < 0.7, labels, 0)]
    p /= p.sum(axis=1, keepdims=True)
    theirs = suspect_labels(labels, p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cleanlab.filter", None)
        ours = suspect_labels(labels, p)
    assert theirs.method.startswith("confident learning (cleanlab ")
    assert ours.method == "confident learning"
    np.testing.assert_array_equal(ours.rows, theirs.rows)


class TestGuessing:
    @pytest.mark.parametrize("seed", range(5))
    def test_probabilities_of_nothing_are_guessed(self, seed):
        rng = np.random.default_rng(seed)
        assert is_guessing(rng.integers(0, 3, 200), rng.dirichlet(np.ones(3), 200))

    def test_a_model_that_only_knows_the_largest_class_guesses(self):
        labels = np.repeat([0, 1], [190, 10])
        assert is_guessing(labels, np.tile([0.95, 0.05], (200, 1)))

    def test_a_rare_class_that_is_known_is_not_guessed(self):
        labels = np.repeat([0, 1], [190, 10])
        p = np.where(labels[:, None] == [0, 1], 0.8, 0.2)
        p[190:193] = 0.9, 0.1
        assert not is_guessing(labels, p)

    def test_one_lucky_image_of_a_class_proves_nothing(self):
        p = np.tile([0.1, 0.9], (11, 1))
        p[0] = 0.9, 0.1
        p[6:] = 0.9, 0.1
        assert is_guessing([0] + [1] * 10, p)

    def test_one_class_or_none_is_guessed(self):
        assert is_guessing([0, 0], [[0.9, 0.1], [0.8, 0.2]])
        assert is_guessing([0, 1], np.full((2, 2), np.nan))
