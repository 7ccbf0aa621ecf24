import numpy as np
import pytest

from featx.evaluation.draws import draw_order, draw_shots

Y = np.array(["ant"] * 60 + ["bee"] * 30 + ["wasp"] * 6)


def grouped():
    """Forty groups of one to five images; some of two classes, wasps in three of them."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), rng.integers(1, 6, 40))
    y = np.array(["ant", "bee"])[rng.integers(2, size=len(groups))]
    for group in (3, 11, 29):
        y[np.flatnonzero(groups == group)[0]] = "wasp"
    return y, groups


class TestOrder:
    @pytest.mark.parametrize("n", [12, 24, 48, 80])
    def test_beginnings_keep_the_share_of_each_class(self, n):
        rows = draw_order(Y, None, [1]).take(n)
        assert len(rows) == len(set(rows.tolist())) == n
        counts = [int((Y[rows] == label).sum()) for label in ("ant", "bee", "wasp")]
        # Two of each class come first, whatever its share.
        expected = [max(2.0, share * n / 96) for share in (60, 30, 6)]
        assert np.abs(np.subtract(counts, expected)).max() <= 2

    def test_two_of_each_class_come_first(self):
        order = draw_order(Y, None, [0])
        assert order.front == 6
        assert np.unique(Y[order.take(0)], return_counts=True)[1].tolist() == [2, 2, 2]

    def test_a_larger_beginning_holds_the_smaller_one(self):
        order = draw_order(Y, None, [0])
        assert set(order.take(20).tolist()) < set(order.take(40).tolist())
        assert order.take(96).tolist() == list(range(96))

    def test_seeds(self):
        first, again, other = (
            draw_order(Y, None, seed).take(20).tolist() for seed in ([1, 2], [1, 2], [1, 3])
        )
        assert first == again != other

    @pytest.mark.parametrize("draw", range(10))
    def test_groups_are_never_cut(self, draw):
        y, groups = grouped()
        order = draw_order(y, groups, [draw])
        assert sorted(order.rows.tolist()) == list(range(len(y)))
        for n in range(1, len(y), 7):
            rows = order.take(n)
            left = np.setdiff1d(np.arange(len(y)), rows)
            assert not set(groups[rows]) & set(groups[left])
            assert abs(len(rows) - max(n, order.front)) <= 5
            # Two groups of each class, so that whole groups can be folded.
            assert min(len(set(groups[rows][y[rows] == label])) for label in np.unique(y)) >= 2


class TestShots:
    def test_each_row_once_in_a_random_order(self):
        first, other = draw_shots(Y, None, [0]), draw_shots(Y, None, [1])
        assert [len(rows) for rows in first] == [60, 30, 6]
        assert sorted(np.concatenate(first).tolist()) == list(range(96))
        assert first[0].tolist() != other[0].tolist()
        assert first[0].tolist() == draw_shots(Y, None, [0])[0].tolist()

    def test_groups_take_turns(self):
        y = np.repeat(["a", "b"], 12)
        groups = np.tile(np.repeat([0, 1, 2, 3], [6, 3, 2, 1]), 2)
        for rows in draw_shots(y, groups, [5]):
            assert sorted(groups[rows[:4]]) == [0, 1, 2, 3]
            assert sorted(groups[rows[4:7]]) == [0, 1, 2]
            assert set(groups[rows[9:]]) == {0}
