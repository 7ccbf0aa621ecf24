from __future__ import annotations

import io
import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from featx.store.walking import walk


@pytest.fixture
def memory():
    with h5py.File(io.BytesIO(), "w") as h5:
        yield h5


def test_a_bomb_of_hard_links_is_walked_once(memory):
    group = memory
    for _ in range(60):  # 2**60 paths, 61 groups
        below = group.create_group("a")
        group["b"] = below
        group = below
    found = walk(memory, 1 << 20)
    assert len(found["problems"]) == 60
    assert found["problems"][0] == ("/b", "is another name of /a")


def test_a_cycle_is_named(memory):
    memory.create_group("x/y")
    memory["x/y/z"] = memory["x"]
    memory["z/data"] = 1
    memory["z/same"] = memory["z/data"]
    assert dict(walk(memory, 1 << 20)["problems"]) == {
        "/x/y/z": "leads back to /x",
        "/z/same": "is another name of /z/data",
    }


def test_there_is_an_end_to_many_objects(memory):
    for number in range(30):
        memory[f"g{number % 3}/a{number}"] = number
    found = walk(memory, 1 << 20, most=20)
    assert len(found["datasets"]) <= 20
    assert found["problems"] == [("/", "holds more than 20 objects, the others were not looked at")]
    assert walk(memory, 1 << 20, most=35)["problems"] == []


def test_there_is_an_end_to_deep_groups_and_many_attributes(memory):
    group = memory
    for _ in range(30):
        group = group.create_group("d" * 100)
    for number in range(300):
        memory.attrs[f"a{number}"] = 1
    problems = walk(memory, 1 << 20)["problems"]
    assert problems[0] == ("/", "has 300 attributes, 256 were looked at")
    assert problems[1][1] == "lies too deep, what is in it was not looked at"
    assert len(problems[1][0]) == 1024


def test_one_broken_object_does_not_hide_the_others(tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as h5:
        for name in "abc":
            h5[name] = np.zeros(3)
        place = h5py.h5o.get_info(h5["b"].id).addr
    data = bytearray(path.read_bytes())
    data[place] = 77  # no version of an object header
    path.write_bytes(data)
    with h5py.File(path) as h5:
        found = walk(h5, 1 << 20)
    assert [name for name, *_ in found["datasets"]] == ["/a", "/c"]
    ((name, what),) = found["problems"]
    assert name == "/b"
    assert what.startswith("cannot be read (")


def test_a_file_is_not_read_with_more_memory_or_time_than_allowed(kit, tmp_path):
    pytest.importorskip("resource")
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as h5:
        h5["X"] = 1
    code = (
        "import resource, sys; from featx.store.walking import main; main(sys.argv[1], 9999, 7); "
        "print(); print(*(resource.getrlimit(w)[0] for w in "
        "(resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_CORE)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=kit.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    answer, limits = done.stdout.splitlines()
    assert json.loads(answer) == {"datasets": [["/X", [], "int64", 8]], "problems": [], "attributes": []}
    assert limits == f"7 {4 << 30} 0"
