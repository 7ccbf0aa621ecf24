"""Every bit of a store counts: one that is flipped, cut off or added is found."""

from __future__ import annotations

import os

import numpy as np
import pytest

from featx.errors import DamagedStoreError, NotAStoreError
from featx.store.reader import FeatureStore
from featx.store.userblock import MAGIC, SIZE, check_bytes

FLIPS = 200
CHOSEN = 20


@pytest.fixture
def good(kit, path):
    kit.awkward_store(path)
    return path.read_bytes()


def found(path):
    try:
        with FeatureStore(path) as store:
            store.verify()
    except (DamagedStoreError, NotAStoreError):
        return True
    return False


def regions(path, data):
    """Bytes of the user block, of HDF5's metadata, of texts, of the index and of the rows."""
    with FeatureStore(path) as store:
        rows = [
            place
            for values in (store.X(layer.name) for layer in store.layers)
            for place in range(values.offset, values.offset + values.nbytes)
        ]
        text = [data.index(name.encode()) for name in store.names[:3]] + [data.index(b"empty")]
        digests = data.index(store.digests.tobytes())
    return {
        "user block": range(SIZE),
        "metadata": [place for place in range(SIZE, min(rows)) if data[place]],
        "text": [place for start in text for place in range(start, start + 5)],
        "digests": range(digests, digests + 6 * 32),
        "rows": rows,
    }


def test_200_of_200_flipped_bits_are_found(path, good):
    generator = np.random.default_rng(20)
    flips = set()
    for places in regions(path, good).values():
        chosen = generator.choice(8 * len(places), CHOSEN, replace=False)
        flips |= {8 * places[bit // 8] + bit % 8 for bit in chosen.tolist()}
    while len(flips) < FLIPS:
        flips.add(int(generator.integers(8 * len(good))))
    missed = []
    for bit in sorted(flips):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        if not found(path):
            missed.append(bit)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert not found(path), f"bit {bit} was put back"
    assert len(flips) == FLIPS
    assert missed == []


def test_every_bit_of_the_user_block_is_found(path, good):
    path.write_bytes(good)
    with path.open("r+b", buffering=0) as file:
        check_bytes(file, path)
        for bit in range(8 * SIZE):
            byte = good[bit // 8] ^ 1 << bit % 8
            os.pwrite(file.fileno(), bytes([byte]), bit // 8)
            with pytest.raises((DamagedStoreError, NotAStoreError), match=str(path)):
                check_bytes(file, path)
            os.pwrite(file.fileno(), good[bit // 8 :][:1], bit // 8)
        check_bytes(file, path)


def test_no_length_but_the_right_one_is_a_store(path, good):
    lengths = [0, 1, len(MAGIC), 24, 56, SIZE - 1, SIZE, SIZE + 1, SIZE + 8, SIZE + 96]
    lengths += [*range(600, len(good), 611), len(good) - 1]
    for length in lengths:
        path.write_bytes(good[:length])
        assert found(path), length
    for more in (b"\0", b"\n", bytes(SIZE), good):
        path.write_bytes(good + more)
        assert found(path), more[:8]
    path.write_bytes(good)
    assert not found(path)


def test_bytes_that_change_places_or_repeat_are_found(path, good):
    half = len(good) // 2
    for data in (
        good[:SIZE] + good[half:] + good[SIZE:half],
        good[:half] + bytes(len(good) - half),
        good[:half] + good[half + 1 :] + b"\0",
        good[:SIZE] + good[:SIZE] + good[2 * SIZE :],
    ):
        assert len(data) == len(good)
        path.write_bytes(data)
        assert found(path)
