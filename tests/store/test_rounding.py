import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featx.errors import OverflowStoreError, StoreError
from featx.store import rounding
from featx.store.rounding import MOST_LOST, finite_rows, round_rows, share_lost

DIGESTS = np.arange(96, dtype=np.uint8).reshape(3, 32)
HALF, SINGLE = np.dtype("float16"), np.dtype("float32")


def rows(scale):
    return (np.random.default_rng(0).normal(size=(3, 50)) * scale).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_ordinary_rows_lose_a_rounding_error_only(scale):
    stored = round_rows(rows(scale), HALF, "fc", DIGESTS).astype(np.float64)
    error = np.linalg.norm(stored - rows(scale), axis=1) / np.linalg.norm(rows(scale), axis=1)
    assert (error < 2**-11).all()


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e6])
def test_rows_out_of_range_are_refused_and_named(scale):
    values = rows(1.0)
    values[1] *= scale
    with pytest.raises(OverflowStoreError, match=r"image 2021222324252627….*--store-dtype float32"):
        round_rows(values, HALF, "fc", DIGESTS)
    np.testing.assert_array_equal(round_rows(values, SINGLE, "fc", DIGESTS), values)


def test_a_row_of_zeros_is_one():
    assert not round_rows(np.zeros((3, 4), np.float32), HALF, "fc", DIGESTS).any()


def test_nan_is_refused():
    values = rows(1.0)
    values[2, 3] = np.nan
    with pytest.raises(StoreError, match="NaN"):
        round_rows(values, SINGLE, "fc", DIGESTS)


@given(st.integers(0, 2**32 - 1), st.floats(-13, 8), st.floats(0, 1), st.integers(1, 300))
def test_the_quick_bound_never_keeps_what_the_exact_one_refuses(seed, scale, density, dim):
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(8, dim)) * 10 ** generator.uniform(scale - 2, scale, (8, 1))
    rows = (rows * (generator.random((8, dim)) < density)).astype(np.float32)
    safe = rounding._is_safe(rows, np.dtype("<f2"))
    assert (share_lost(rows[safe], "<f2") <= MOST_LOST).all()


def test_the_quick_bound_takes_ordinary_rows():
    rows = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    assert rounding._is_safe(rows, np.dtype("<f2")).all()
    assert not rounding._is_safe(rows * 1e-9, np.dtype("<f2")).any()
    assert not rounding._is_safe(rows * 1e6, np.dtype("<f2")).any()


@given(st.lists(st.integers(0, 2**16 - 1), min_size=3, max_size=30))
def test_finite_by_the_bits_is_finite(bits):
    rows = np.array(bits, "<u2").view("<f2")[:, None]
    assert (finite_rows(rows) == np.isfinite(rows[:, 0])).all()
    wide = rows.astype("<f4")
    assert (finite_rows(wide) == np.isfinite(wide[:, 0])).all()
