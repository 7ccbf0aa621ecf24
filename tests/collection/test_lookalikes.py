"""All pairs that are near are found, and no others; a search that would not end says so."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featx.collection import lookalikes
from featx.collection.lookalikes import NEAR_BITS, near_pairs

# Few bits, so that many are near; and any bits at all.
FEW_BITS = st.lists(st.sets(st.integers(0, 63), max_size=4), max_size=30)
ANY_BITS = st.lists(st.integers(0, 2**64 - 1), max_size=12)


def brute_force(hashes):
    pairs = combinations(enumerate(map(int, hashes)), 2)
    found = ((i, j, (a ^ b).bit_count()) for (i, a), (j, b) in pairs)
    return [(i, j, bits) for i, j, bits in found if bits <= NEAR_BITS]


def listed(found):
    return list(zip(found.left.tolist(), found.right.tolist(), found.bits.tolist(), strict=True))


@settings(max_examples=150, deadline=None)
@given(hashes=FEW_BITS.map(lambda sets: [sum(1 << bit for bit in bits) for bits in sets]) | ANY_BITS)
def test_they_are_those_that_a_comparison_of_all_with_all_finds(hashes):
    different = np.array(list(dict.fromkeys(hashes)), np.uint64)
    found = near_pairs(different)
    assert found.complete
    assert listed(found) == brute_force(different)


@pytest.mark.parametrize("bits", [0b1, 1 << 63, 1 | 1 << 63, 0b111, 1 << 12 | 1 << 25 | 1 << 60, 7 << 61])
@pytest.mark.parametrize("base", [0, 2**64 - 1, 0x0123456789ABCDEF])
def test_whatever_bands_the_bits_lie_in(base, bits):
    found = near_pairs(np.array([base ^ bits, base], np.uint64))
    assert listed(found) == [(0, 1, bits.bit_count())]


@pytest.mark.parametrize("places", [(0, 1, 2, 3), (0, 16, 32, 48), (0, 13, 26, 63)])
def test_four_bits_are_too_many(places):
    assert listed(near_pairs(np.array([0, sum(1 << place for place in places)], np.uint64))) == []


def test_planted_ones_among_many():
    rng = np.random.default_rng(0)
    hashes = np.unique(rng.integers(0, 2**64, 20_000, dtype=np.uint64))
    chosen = rng.choice(len(hashes), 100, replace=False)
    flips = np.array(
        [sum(1 << int(bit) for bit in rng.choice(64, 3, replace=False)) for _ in chosen], np.uint64
    )
    found = near_pairs(np.append(hashes, hashes[chosen] ^ flips))
    expected = {(int(row), len(hashes) + number, 3) for number, row in enumerate(chosen)}
    assert expected <= set(listed(found))
    assert len(found.left) == len(expected)  # chance gives none: 2e8 pairs, of which 2e-15 are near


@pytest.mark.parametrize("count", [0, 1])
def test_one_hash_has_no_pair(count):
    found = near_pairs(np.arange(count, dtype=np.uint64))
    assert listed(found) == []
    assert found.complete
    assert found.left.dtype == np.int64


class TestLimits:
    # All differ in the lowest 8 bits alone, which is one group in many bands.
    HASHES = np.arange(256, dtype=np.uint64)

    def test_without_them_all_are_found(self):
        found = near_pairs(self.HASHES)
        assert found.complete
        assert listed(found) == brute_force(self.HASHES)

    @pytest.mark.parametrize("limit", [{"most_compared": 1000}, {"most_found": 100}])
    def test_a_search_that_is_ended_says_so_and_finds_nothing_wrong(self, limit):
        found = near_pairs(self.HASHES, **limit)
        assert not found.complete
        assert set(listed(found)) < set(brute_force(self.HASHES))
        assert len(found.left) > 0

    def test_work_is_bounded(self, monkeypatch):
        compared = []
        count = np.bitwise_count
        monkeypatch.setattr(
            lookalikes.np, "bitwise_count", lambda values: compared.append(len(values)) or count(values)
        )
        near_pairs(np.arange(5000, dtype=np.uint64), most_compared=20_000)
        assert 0 < sum(compared) <= 20_000
