"""The intervals cover the truth as often as they say: 1,000 simulated test sets a cell.

benchmarks/bench_coverage.py does the same for more cells, and for all scores.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from featx.evaluation import assess, compare, evaluate
from featx.evaluation.counting import count_scores
from featx.evaluation.intervals import proportion
from featx.evaluation.resampling import bootstrap, resampled_sums

SETS = 1000
CELLS = [(n, accuracy) for n in (150, 500) for accuracy in (0.6, 0.8, 0.9, 0.95, 0.98)]

# Logits of two classes are normal; that of the true one is higher by the skill, which gives the accuracy.
SKILLS = {(0.98, False): 2.904, (0.6, True): 0.380, (0.9, True): 1.922, (0.98, True): 3.081}
SPREAD = 0.5


def covers(share):
    return 0.92 <= share <= 0.98


@pytest.mark.parametrize(("n", "accuracy"), CELLS)
def test_accuracy_of_single_images(n, accuracy):
    drawn = np.random.default_rng(0).binomial(n, accuracy, size=SETS)
    scores = [proportion(int(k), n) for k in drawn]
    assert covers(np.mean([score.low <= accuracy <= score.high for score in scores]))


@pytest.mark.parametrize(
    ("n", "accuracy"),
    [
        pytest.param(n, accuracy, marks=[pytest.mark.slow] if accuracy in (0.8, 0.9) else [])
        for n, accuracy in CELLS
    ],
)
def test_accuracy_of_40_groups(n, accuracy):
    generator = np.random.default_rng(1)
    groups = np.arange(n) * 40 // n
    sizes = np.bincount(groups).astype(float)
    covered = 0
    for _ in range(SETS):
        # The accuracy of each group is drawn from a beta distribution: its images depend on each other.
        skill = generator.beta(10 * accuracy, 10 * (1 - accuracy), size=40)
        hits = np.bincount(groups, weights=generator.random(n) < skill[groups])
        # Counts of one class: truth, predictions, hits, images, among the first five.
        counts = np.column_stack([sizes, sizes, hits, sizes, hits])
        score = count_scores(counts.sum(axis=0), resampled_sums(counts), 40, grouped=True)["accuracy"]
        covered += score.low <= accuracy <= score.high
    assert covers(covered / SETS)


def draw(n, skill, grouped, generator):
    codes = (generator.random(n) < 0.4).astype(int)
    groups = np.arange(n) * 40 // n if grouped else None
    skills = skill + SPREAD * generator.normal(size=40)[groups] if grouped else np.full(n, skill)
    logits = generator.normal(size=(n, 2))
    logits[np.arange(n), codes] += skills
    return codes, softmax(1.5 * skill * logits, axis=1), groups


@pytest.mark.parametrize(
    ("n", "accuracy", "grouped"),
    [
        (150, 0.98, False),
        pytest.param(150, 0.6, True, marks=pytest.mark.slow),
        (150, 0.98, True),
        pytest.param(500, 0.9, True, marks=pytest.mark.slow),
    ],
)
def test_all_scores(n, accuracy, grouped):
    skill = SKILLS[accuracy, grouped]
    generator = np.random.default_rng(2)
    codes = (generator.random(200_000) < 0.4).astype(int)
    logits = generator.normal(scale=1, size=(200_000, 2))
    logits[np.arange(200_000), codes] += skill + (SPREAD * generator.normal(size=200_000) if grouped else 0)
    whole = evaluate(codes, softmax(1.5 * skill * logits, axis=1), [0, 1], resamples=2)
    assert whole["accuracy"].value == pytest.approx(accuracy, abs=0.003)
    covered = dict.fromkeys(whole, 0)
    for _ in range(SETS):
        codes, p, groups = draw(n, skill, grouped, generator)
        for name, score in evaluate(codes, p, [0, 1], groups=groups).items():
            covered[name] += score.low <= whole[name].value <= score.high
            assert score.low <= score.value <= score.high
    shares = {name: count / SETS for name, count in covered.items()}
    # The interval of calibration never claims to be reliable.
    assert 0.85 <= shares.pop("ece") <= 1
    # With 3 wrong images, the log loss is flagged.
    if accuracy == 0.98:
        assert 0.89 <= shares.pop("log_loss") <= 0.98
    assert {name: share for name, share in shares.items() if not covers(share)} == {}


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("n", [150, 500])
def test_differences_of_accuracies(n, grouped):
    generator = np.random.default_rng(3)
    groups = np.arange(n) * 40 // n if grouped else None
    covered = 0
    for _ in range(SETS):
        shift = 0.05 * generator.normal(size=40)[groups] if grouped else 0
        both, one, other = generator.random((3, n))
        # Of 100 images, both get 80 right, the one 6 more and the other 3 more, up or down by group.
        rows = [~((both < 0.8) | (share < chance + shift)) for share, chance in ((one, 0.3), (other, 0.15))]
        (row,) = compare([row.astype(int) for row in rows], np.zeros(n, dtype=int), 0, groups=groups)
        covered += row.low <= 0.03 <= row.high
    assert covers(covered / SETS)


def test_the_percentile_bootstrap_is_too_narrow_near_1():
    generator = np.random.default_rng(4)
    covered = 0
    for _ in range(SETS):
        hits = generator.random(153) < 0.98
        score = bootstrap(np.column_stack([hits, np.ones(153)]), lambda sums: sums[:, 0] / sums[:, 1])
        covered += score.low <= 0.98 <= score.high
    assert covered / SETS < 0.88


BY_CLASS = {
    "balanced_accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "roc_auc",
    "average_precision",
}
ALL = BY_CLASS | {"accuracy", "log_loss", "ece"}


@pytest.mark.parametrize(
    ("n", "groups", "rare", "skill", "flagged"),
    [
        (500, None, 0.5, 1.5, {"ece"}),
        (500, 40, 0.5, 1.5, {"ece"}),
        (150, None, 0.5, 9.0, {"ece", "log_loss"}),
        (150, None, 0.04, 1.0, BY_CLASS | {"ece"}),
        (500, 10, 0.5, 1.5, ALL),
    ],
)
def test_what_is_known_to_fail_is_flagged(n, groups, rare, skill, flagged):
    generator = np.random.default_rng(5)
    codes = (generator.random(n) < rare).astype(int)
    logits = generator.normal(size=(n, 2))
    logits[np.arange(n), codes] += skill
    numbers = np.arange(n) % groups if groups else None
    scores = evaluate(codes, softmax(logits, axis=1), [0, 1], groups=numbers)
    assert scores.keys() == ALL
    assert {name for name, score in scores.items() if not score.reliable} == flagged


def test_scores_by_class_are_flagged_where_a_class_is_small_or_in_few_groups():
    codes = np.repeat([0, 1, 2], [300, 100, 10])
    p = np.eye(3)[codes]
    assert [row.recall.reliable for row in assess(codes, p, ["a", "b", "c"]).per_class] == [True, True, False]
    # 41 groups: 30 hold the first class, 10 the second, 1 the third.
    by_group = assess(codes, p, ["a", "b", "c"], groups=np.arange(410) // 10).per_class
    assert [row.f1.reliable for row in by_group] == [True, False, False]
    few = assess(codes, p, ["a", "b", "c"], groups=np.arange(410) // 20).per_class
    assert not any(row.precision.reliable for row in few)
