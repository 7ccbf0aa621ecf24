from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys

import h5py
import numpy as np
import pytest

from featx.errors import DamagedStoreError
from featx.store.heap import REFERENCE, GuardedFile, check_references
from featx.store.reader import FeatureStore
from featx.store.userblock import SIZE, Header, pack_header

# In a child: where HDF5 loops or crashes, it takes its process with it.
READ_ALL = """
import io, sys
from pathlib import Path
import h5py
from featx.errors import StoreError
from featx.store.checking import inspect
from featx.store.heap import GuardedFile, check_references

for path in map(Path, sys.argv[1:]):
    with io.FileIO(path) as raw:
        try:
            h5 = h5py.File(GuardedFile(raw), "r")
        except (OSError, RuntimeError, ValueError):
            print(path.name, "cannot be opened", flush=True)
            continue
        with h5:
            try:
                inspect(h5, path, path.stat().st_size)
                texts = [*h5["images/columns"].values(), *map(h5["images"].get, ("name", "label", "split"))]
                for dataset in texts:
                    check_references(dataset, raw, path)
                    dataset[()]
            except (StoreError, OSError, RuntimeError, ValueError) as error:
                print(path.name, type(error).__name__, error, flush=True)
            else:
                print(path.name, "opens", flush=True)
"""


def read_all(kit, paths):
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, *map(str, paths)],
        env=kit.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def sign(path, data):
    rest = bytes(data[SIZE:])
    path.write_bytes(pack_header(Header(1, len(rest), hashlib.sha256(rest).digest())) + rest)


def collection(*objects, size=4096, free=None):
    """A heap of (index, bytes), filled up with free space."""
    body = b"".join(
        struct.pack("<HHxxxxQ", index, 1, len(text)) + text + bytes(-len(text) % 8) for index, text in objects
    )
    rest = size - 16 - len(body)
    if rest >= 16:
        body += struct.pack("<HHxxxxQ", 0, 0, rest if free is None else free)
    return struct.pack("<4sB3xQ", b"GCOL", 1, size) + body + bytes(max(0, size - 16 - len(body)))


@pytest.mark.parametrize(
    ("heap", "sound"),
    [
        (collection((1, b"ant"), (2, b"")), True),
        (collection((1, b"x" * 4064)), True),
        (collection((1, b"x" * 4056)), True),
        (collection(size=8192), True),
        (collection((1, b"ant"), free=0), False),
        (collection((1, b"ant"), free=15), False),
        (collection((1, b"ant"), free=4096), False),
        (collection((1, b"x" * 5000)), False),
        (collection((1, b"ant"))[:-1], False),
        (b"GCOL\1\0\0\0" + bytes(4088), False),
    ],
)
def test_a_heap_that_does_not_lead_to_its_end_is_blanked(tmp_path, heap, sound):
    path = tmp_path / "heap"
    path.write_bytes(b"before" + heap)
    with io.FileIO(path) as raw:
        file, buffer = GuardedFile(raw), bytearray(4096)
        file.seek(6)
        count = file.readinto(buffer)
        assert file.tell() == 6 + count
    assert count == min(4096, len(heap))
    assert (bytes(buffer[:count]) == heap[:count]) is sound
    assert (buffer[:4] == bytes(4)) is not sound
    assert bytes(buffer[5:count]) == heap[5:count]


def test_all_other_bytes_pass_unchanged(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"..GCOL\2" + bytes(range(100)))
    with io.FileIO(path) as raw:
        file = GuardedFile(raw)
        for start in (0, 2, 7):
            file.seek(start)
            assert file.read(40) == path.read_bytes()[start : start + 40]
        assert file.seek(1 << 70) == 107
        assert file.read(5) == b""
        assert file.seek(0, io.SEEK_END) == 107


def test_hdf5_comes_back_from_a_heap_that_leads_nowhere(kit, path):
    kit.awkward_store(path)
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL\1")
    place, end = heap + 16, heap + int.from_bytes(data[heap + 8 : heap + 16], "little")
    while data[place : place + 2] != b"\0\0":
        place += 16 + (int.from_bytes(data[place + 8 : place + 16], "little") + 7) // 8 * 8
        assert place < end
    data[place + 8 : place + 16] = bytes(8)
    sign(path, data)
    (line,) = read_all(kit, [path])
    assert "DamagedStoreError" in line
    assert "bad global heap collection signature" in line


def references(path, name):
    with h5py.File(path) as h5:
        return h5[name].id.get_offset()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("length", 1),
        ("length", 4000),
        ("heap", 1 << 40),
        ("heap", (1 << 64) - 1),
        ("heap", 8),
        ("object", 60_000),
    ],
)
def test_references_to_elsewhere_are_errors(kit, path, field, value):
    kit.store(path)
    start = references(path, "images/name")
    data = bytearray(path.read_bytes())
    np.frombuffer(data, REFERENCE, 3, start)[field][1] = value
    sign(path, data)
    with FeatureStore(path) as store, pytest.raises(DamagedStoreError, match="images/name"):
        _ = store.names


def test_more_text_than_the_file_holds_is_refused_before_it_is_read(kit, path):
    kit.store(path)
    size = path.stat().st_size
    start = references(path, "images/name")
    data = bytearray(path.read_bytes())
    lengths = np.frombuffer(data, REFERENCE, 10, start)["length"]

    def check():
        path.write_bytes(data)
        with io.FileIO(path) as raw, h5py.File(path) as h5:
            check_references(h5["images/name"], raw, path)

    lengths[:] = size // 10
    check()
    lengths[:] = size // 10 + 1
    with pytest.raises(DamagedStoreError, match=r"/images/name refers to more text than the \d+ bytes"):
        check()


def test_changed_metadata_never_takes_the_process_along(kit, tmp_path):
    """Signed again, so that no checksum stands before HDF5: each file opens or is an error."""
    path = tmp_path / "store.h5"
    kit.awkward_store(path)
    good = path.read_bytes()
    with FeatureStore(path) as store:
        starts = [store.X(layer.name).offset for layer in store.layers]
    places = [place for place in range(SIZE, len(good)) if good[place] and place < min(starts)]
    generator = np.random.default_rng(3)
    paths = []
    for number, place in enumerate(generator.choice(places, 120, replace=False)):
        data = bytearray(good)
        data[place] = generator.choice([0, 255, data[place] ^ 1 << int(generator.integers(8))])
        paths.append(tmp_path / f"{number:03d}.h5")
        sign(paths[-1], data)
    lines = read_all(kit, paths)
    assert [line.split()[0] for line in lines] == [path.name for path in paths]
    outcomes = ["opens" in line.split() for line in lines]
    assert 10 < sum(outcomes) < 110
