"""All pairs that are near are found, and no others; a search that would not end says so."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featx.collection import lookalikes
from featx.collection.lookalikes import NEAR_BITS, near_any, near_pairs

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


class TestNearAny:
    HASHES = FEW_BITS.map(lambda sets: [sum(1 << bit for bit in bits) for bits in sets]) | ANY_BITS

    @settings(max_examples=150, deadline=None)
    @given(hashes=HASHES, others=HASHES)
    def test_it_is_what_a_comparison_of_all_with_all_finds(self, hashes, others):
        found = near_any(np.array(hashes, np.uint64), np.array(others, np.uint64))
        expected = [any((a ^ b).bit_count() <= NEAR_BITS for b in others) for a in hashes]
        assert found.complete
        assert found.near.tolist() == expected

    def test_none_of_those_planted_among_200_000_is_missed(self):
        rng = np.random.default_rng(0)
        hashes = rng.integers(0, 2**64, 200_000, dtype=np.uint64)
        others, asked = hashes[:150_000], hashes[150_000:].copy()
        planted = rng.choice(len(asked), 2000, replace=False)
        for number, place in enumerate(planted):
            bits = rng.choice(64, number % (NEAR_BITS + 1), replace=False)
            asked[place] = others[number] ^ np.uint64(sum(1 << int(bit) for bit in bits))
        found = near_any(asked, others)
        assert found.complete
        # Chance gives none: 7.5e9 pairs, of which 2e-15 are near.
        assert np.flatnonzero(found.near).tolist() == sorted(planted.tolist())

    def test_series_of_like_images_cost_little(self, monkeypatch):
        compared = []
        count = np.bitwise_count
        monkeypatch.setattr(
            lookalikes.np, "bitwise_count", lambda values: compared.append(len(values)) or count(values)
        )
        rng = np.random.default_rng(0)
        series = rng.integers(0, 2**64, 10, dtype=np.uint64).repeat(400)
        flips = np.uint64(1) << rng.integers(0, 64, (3, 4000)).astype(np.uint64)
        one, other = series ^ flips[0] ^ flips[1], series ^ flips[2]
        found = near_any(one, other)
        assert found.near.all()
        assert sum(compared) < 10 * len(series)  # of 1.6 million pairs that are near

    def test_a_search_that_is_ended_says_so_and_finds_nothing_wrong(self):
        hashes = np.arange(256, dtype=np.uint64) << np.uint64(56)
        asked = hashes[200:]
        found = near_any(asked | np.uint64(0b111), hashes[:200], most_compared=60)
        assert not found.complete
        whole = near_any(asked | np.uint64(0b111), hashes[:200])
        assert whole.complete
        assert found.near.sum() < whole.near.sum() or not whole.near.any()
        assert not (found.near & ~whole.near).any()
