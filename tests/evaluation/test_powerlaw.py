import numpy as np
import pytest
from scipy.optimize import curve_fit

from featx.errors import DatasetError
from featx.evaluation.powerlaw import fit_power_law

N = np.array([24.0, 38, 61, 97, 154, 244])


@pytest.mark.parametrize(
    ("a", "b", "c"), [(0.05, 1.0, 0.6), (0.0, 0.9, 0.3), (0.1, 5.0, 1.2), (0.02, 2.0, 0.5)]
)
def test_known_curves_are_found(a, b, c):
    law = fit_power_law(N, a + b * N**-c)
    np.testing.assert_allclose(law.at(N[3]), a + b * N[3] ** -c, atol=5e-4)
    np.testing.assert_allclose(law.at(488), a + b * 488**-c, atol=1e-3)
    np.testing.assert_allclose(law.asymptote, a, atol=0.01)
    np.testing.assert_allclose(law.exponent, c, rtol=0.1)
    np.testing.assert_allclose(law.scale, b * 244**-c, atol=0.01)


def test_noisy_curves_are_those_of_scipys_solver():
    rng = np.random.default_rng(0)
    for _ in range(10):
        errors = 0.05 + 1.5 * N**-0.6 + rng.normal(scale=0.004, size=6)

        def model(n, a, b, c):
            return a + b * (n / 244) ** -c

        found, _ = curve_fit(
            model,
            N,
            errors,
            p0=[0.05, 0.05, 0.5],
            sigma=N**-0.5,
            bounds=([0, 0, 0.05], [1, 1, 2]),
            xtol=1e-12,
        )
        assert fit_power_law(N, errors).at(488)[0] == pytest.approx(model(488, *found), abs=5e-4)


def test_many_curves_at_once_are_each_on_its_own():
    errors = np.array([0.05 + N**-0.5, 0.2 + 0 * N, 0.1 + N**-1.0])
    together = fit_power_law(N, errors)
    for row, one in enumerate(errors):
        alone = fit_power_law(N, one)
        assert alone.at(488)[0] == pytest.approx(together.at(488)[row], abs=1e-12)


def test_no_curve_rises_or_ends_below_nothing():
    rng = np.random.default_rng(0)
    law = fit_power_law(N, rng.uniform(0, 0.3, (500, 6)))
    assert (law.asymptote >= 0).all()
    assert (law.at(488) <= law.at(244) + 1e-12).all()
    assert (law.at(10**9) >= 0).all()
    rising = fit_power_law(N, 0.1 + N / 1000)
    assert rising.at(24) == rising.at(488)


def test_later_points_count_for_more():
    bent = np.array([0.5, 0.5, 0.5, 0.3, 0.2, 0.15])
    even = fit_power_law(N, bent, np.ones(6))
    assert abs(fit_power_law(N, bent).at(244)[0] - 0.15) < abs(even.at(244)[0] - 0.15)


@pytest.mark.parametrize(
    ("sizes", "errors"), [([1, 2], [0.1, 0.2]), ([5, 5, 5], [0.1] * 3), ([1, 2, 3], [0.1] * 4)]
)
def test_too_little_to_fit(sizes, errors):
    with pytest.raises(DatasetError, match="at least three different sizes"):
        fit_power_law(sizes, errors)
