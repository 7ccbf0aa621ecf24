from __future__ import annotations

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from featx.errors import DamagedStoreError, NotAStoreError, StoreError
from featx.store import foreign
from featx.store.foreign import ForeignDataset, Problem, describe_foreign, is_hdf5
from featx.store.userblock import SIZE


def test_plain_arrays_are_listed(path):
    with h5py.File(path, "w") as h5:
        h5["X"] = np.zeros((10, 5), "<f4")
        h5["more/y"] = np.arange(10)
        h5["more/names"] = ["ant", "bee"]
        h5["X"].attrs["unit"] = "cm"
        h5.attrs["mean"] = np.zeros(3)
    found = describe_foreign(path)
    assert set(found.datasets) == {
        ForeignDataset("/X", (10, 5), "float32", 200),
        ForeignDataset("/more/y", (10,), "int64", 80),
        ForeignDataset("/more/names", (2,), "text", 32),
    }
    assert found.problems == ()
    assert not found.ours
    line = found.describe()
    assert line.startswith(f"{path} is an HDF5 file that featx did not write, of 3 datasets: ")
    assert "/X float32 (10, 5)" in line
    assert "`featx import FILE.npz -o STORE`" in line
    assert "\n" not in line


def test_an_empty_file_and_a_long_one_are_one_line(path):
    with h5py.File(path, "w") as h5:
        pass
    assert "of 0 datasets; save" in describe_foreign(path).describe()
    with h5py.File(path, "w") as h5:
        for number in range(50):
            h5[f"a{number:02d}"] = number
            h5[f"b\n{number:02d}"] = h5py.SoftLink("/\x1b[2J")
    line = describe_foreign(path).describe()
    assert "50 datasets: /a00 int64 (), /a01 int64 (), /a02 int64 () and 47 more" in line
    assert "and 47 more)" in line
    assert line.isprintable()


def hostile(h5, elsewhere):
    h5["soft"] = h5py.SoftLink("/X")
    h5["external"] = h5py.ExternalLink(elsewhere, "/x")
    layout = h5py.VirtualLayout((10, 5), "<f2", maxshape=(None, 5))
    layout[: h5py.h5s.UNLIMITED, :] = h5py.VirtualSource(f"{elsewhere}-%b", "x", (1, 5))
    h5.create_virtual_dataset("virtual", layout)
    h5.create_dataset("outside", (10, 5), "<f2", external=[(elsewhere, 0, 100)])
    h5.create_dataset("packed", data=np.zeros((10, 5)), compression="gzip", shuffle=True, fletcher32=True)
    h5.create_dataset("unknown", data=np.zeros((10, 5)), chunks=(5, 5))
    h5.create_dataset("scaled", data=np.zeros((10, 5), "<f4"), scaleoffset=2)
    h5.create_dataset("references", (3,), h5py.ref_dtype)
    h5.create_dataset("regions", (3,), h5py.regionref_dtype)
    h5.create_dataset("lists", (3,), h5py.vlen_dtype("<i4"))
    h5.create_dataset("opaque", data=np.zeros(3, "<M8[s]").astype(h5py.opaque_dtype("<M8[s]")))
    h5.create_dataset("compound", data=np.zeros(3, "i4,f4"))
    h5.create_dataset("huge", (1 << 50, 2), "<f4")
    h5["type"] = np.dtype("<f2")
    h5["group/loop"] = h5["/"]
    h5["group/again"] = h5["packed"]
    h5["group"].attrs["back"] = h5["packed"].ref
    h5["text"] = "abc"
    h5["text"].attrs["lists"] = h5["packed"].regionref[:2]


EXPECTED = {
    "/soft": "is a soft link to /X",
    "/external": "is an external link to /x of {elsewhere}",
    "/virtual": "is a virtual dataset",
    "/outside": "has external storage ({elsewhere})",
    "/packed": "has filters (shuffle, gzip, fletcher32)",
    "/scaled": "has filters (scale-offset)",
    "/references": "is of type reference",
    "/regions": "is of type reference",
    "/lists": "is of type variable-length list",
    "/opaque": "is of type opaque",
    "/compound": "is of type compound",
    "/type": "is a named type",
    "/text": "has an attribute 'lists' that is of type reference",
}


def test_what_a_plain_file_does_not_have_is_named_and_not_touched(path, tmp_path):
    elsewhere = str(tmp_path / "source")
    with h5py.File(path, "w", track_order=True) as h5:
        hostile(h5, elsewhere)
    if hasattr(os, "mkfifo"):  # whoever opens one of these waits for ever
        for name in ("source", "source-0", "source-1"):
            os.mkfifo(tmp_path / name)
    foreign_file = describe_foreign(path)
    # Their shape is not asked for, since HDF5 may look for it in the other files.
    for name in ("/virtual", "/outside"):
        assert ForeignDataset(name, None, "float16", 0) in foreign_file.datasets
    found = {problem.name: problem.what for problem in foreign_file.problems}
    for name, what in EXPECTED.items():
        assert found.pop(name) == what.format(elsewhere=elsewhere), name
    assert "has shape (1125899906842624, 2), 9007199254740992 bytes, more than the" in found.pop("/huge")
    assert found.pop("/group/loop") == "leads back to /"
    assert found.pop("/group/again") == "is another name of /packed"
    assert found.pop("/group") == "has an attribute 'back' that is of type reference"
    assert found == {}


def test_the_content_of_datasets_is_not_read(path):
    with h5py.File(path, "w") as h5:
        h5["names"] = ["ant", "bee"]
        h5.create_dataset("packed", data=np.zeros(1000), compression="gzip")
        chunk = h5["packed"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    data[heap : heap + 4096] = bytes(4096)
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(data)
    assert {item.name for item in describe_foreign(path).datasets} == {"/names", "/packed"}


def test_a_store_that_another_tool_wrote_anew_is_known(kit, path):
    kit.store(path)
    path.write_bytes(path.read_bytes()[SIZE:])
    found = describe_foreign(path)
    assert found.ours
    assert {item.name for item in found.datasets} >= {"/features/layer4.1:avg", "/images/name"}
    assert "its user block is gone, so its bytes cannot be checked; fetch the original" in found.describe()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"..\x89HDF\r\n\x1a\n", bytes(4096)])
def test_no_child_is_started_for_other_files(path, monkeypatch, content):
    monkeypatch.setattr(subprocess, "run", None)
    path.write_bytes(content)
    with pytest.raises(NotAStoreError, match=f"{path} exists and is no featx store, nor any HDF5 file"):
        describe_foreign(path)


@pytest.mark.parametrize("place", [0, 512, 1024, 2048, 1 << 20])
def test_the_signature_is_found_where_hdf5_looks(path, place):
    path.write_bytes(bytes(place) + b"\x89HDF\r\n\x1a\n" + bytes(9))
    assert is_hdf5(path)
    path.write_bytes(bytes(place + 1) + b"\x89HDF\r\n\x1a\n")
    assert not is_hdf5(path)


def test_a_directory_a_pipe_and_nothing_are_errors(tmp_path):
    with pytest.raises(NotAStoreError):
        describe_foreign(tmp_path)
    with pytest.raises(StoreError, match=r"Cannot read .*missing.h5"):
        describe_foreign(tmp_path / "missing.h5")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.h5")
        with pytest.raises(NotAStoreError):
            describe_foreign(tmp_path / "pipe.h5")


@pytest.mark.parametrize("keep", [20, 600, 1500])
def test_a_truncated_file_is_an_error_of_one_line(path, keep):
    with h5py.File(path, "w") as h5:
        h5["X"] = np.zeros((100, 5))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedStoreError, match=f"{path} is damaged: HDF5 cannot read it") as caught:
        describe_foreign(path)
    assert "\n" not in str(caught.value)


def test_a_heap_that_leads_nowhere_is_an_error_and_no_loop(path):
    with h5py.File(path, "w") as h5:
        h5["X"] = 1
        layout = h5py.VirtualLayout((10, 5), "<f2")
        layout[:] = h5py.VirtualSource("elsewhere", "x", (10, 5))
        h5.create_virtual_dataset("virtual", layout)
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    used = (int.from_bytes(data[heap + 24 : heap + 32], "little") + 7) // 8 * 8
    free = heap + 32 + used
    assert data[free : free + 8] == bytes(8)
    data[free + 8 : free + 16] = bytes(8)
    path.write_bytes(data)
    found = describe_foreign(path, timeout=20)
    assert [item.name for item in found.datasets] == ["/X"]
    assert "bad global heap collection signature" in found.problems[0].what


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashed with signal 11 \(SIGSEGV\)"),
        ("import os; os.abort()", r"crashed with signal 6 \(SIGABRT\)"),
        ("import os, signal; os.kill(os.getpid(), 40)", "crashed with signal 40 when"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "took more than 60 s"),
        ("raise MemoryError('no more')", r"ended with code 1 and no answer \(MemoryError: no more\)"),
        ("print('rub\\x1bbish')", "ended with code 0 and no answer"),
        ("print('[]')", "no answer"),
        ("print('{}')", "no answer"),
        ("print('3')", "no answer"),
        ("""print('{"datasets": [7], "problems": [], "attributes": []}')""", "no answer"),
        ("pass", "no answer"),
    ],
)
def test_a_child_that_dies_is_an_error_message(path, monkeypatch, code, match):
    with h5py.File(path, "w"):
        pass
    monkeypatch.setattr(foreign, "_START", code)
    with pytest.raises(DamagedStoreError, match=match) as caught:
        describe_foreign(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_child_that_does_not_come_back_is_killed(path, monkeypatch):
    with h5py.File(path, "w"):
        pass
    monkeypatch.setattr(foreign, "_START", "import time; time.sleep(600)")
    with pytest.raises(DamagedStoreError, match=r"took more than 0\.3 s to walk it"):
        describe_foreign(path, timeout=0.3)


def test_the_directory_and_the_environment_choose_no_code(path, tmp_path, monkeypatch):
    with h5py.File(path, "w") as h5:
        h5["X"] = 1
    for name in ("json.py", "h5py.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert describe_foreign(path).datasets == (ForeignDataset("/X", (), "int64", 8),)


def test_a_name_that_looks_like_an_option_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File("-h.h5", "w") as h5:
        h5["X"] = 1
    assert len(describe_foreign(type(tmp_path)("-h.h5")).datasets) == 1


def test_the_child_loads_no_torch(kit):
    code = "import featx.store.walking, sys; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=kit.environment(), timeout=60).returncode == 0


def test_problems_are_plain_records():
    assert Problem("/x", "is a soft link") == Problem("/x", "is a soft link")
    with pytest.raises(AttributeError):
        Problem("/x", "y").name = "z"
