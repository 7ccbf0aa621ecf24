import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from featx.store.digests import DigestSet

# Of few kinds of first bytes, so that digests meet in the table.
digests = st.builds(
    lambda first, last: bytes([first]) * 8 + bytes([last]) * 24, st.integers(0, 3), st.integers(0, 9)
)


@given(st.lists(digests), st.lists(digests))
@settings(deadline=None)
def test_it_is_a_set(some, others):
    found = DigestSet()
    assert [found.add(digest) for digest in some] == [
        digest not in some[:place] for place, digest in enumerate(some)
    ]
    assert found == set(some)
    assert list(found) == list(dict.fromkeys(some))
    assert len(found) == len(set(some))
    assert [digest in found for digest in others] == [digest in some for digest in others]
    assert found | DigestSet(others) == set(some) | set(others)


def test_digests_of_one_slot_are_told_apart():
    alike = [bytes(8) + bytes([number]) * 24 for number in range(200)]
    found = DigestSet(alike[::2])
    assert [digest in found for digest in alike] == [number % 2 == 0 for number in range(200)]


def test_it_grows():
    rows = np.random.default_rng(0).integers(0, 256, (20_000, 32), np.uint8)
    tracemalloc.start()
    try:
        found = DigestSet(row.tobytes() for row in rows)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 60 * len(rows)
    assert len(found) == len(rows)
    assert all(row.tobytes() in found for row in rows)
    assert rows[0, ::-1].tobytes() not in found
