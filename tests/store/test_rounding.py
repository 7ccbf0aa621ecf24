import numpy as np
import pytest

from featx.errors import OverflowStoreError, StoreError
from featx.store.rounding import round_rows

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
