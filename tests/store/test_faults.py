"""Full disks, failing disks and kills: nothing committed is lost, nothing torn is read."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from featx.errors import StoreError
from featx.store.reader import FeatureStore

KEYS = list(range(8))


def run(kit, path):
    with kit.writer(path, flush_bytes=1) as writer:
        for start in range(0, len(KEYS), 2):
            todo = [key for key in KEYS[start : start + 2] if kit.digest(key) not in writer.known]
            if todo:
                writer.add(*kit.rows(todo))
        writer.finish(kit.images(KEYS), [], {})


def check(kit, path):
    with FeatureStore(path) as store:
        store.verify()
        assert np.array_equal(store.X("layer4.1"), kit.expected(KEYS, kit.avg))
        assert np.array_equal(store.X("classifier.4"), kit.expected(KEYS, kit.flat))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


class Failing:
    """Fail the nth call of a function of os, and every later one if the disk stays full."""

    def __init__(self, name, number, code, monkeypatch, forever):
        self.real, self.number, self.code, self.forever = getattr(os, name), number, code, forever
        self.calls = 0
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.number or (self.forever and self.calls > self.number):
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*args, **kwargs)


@pytest.mark.parametrize(
    ("name", "code"), [("write", errno.ENOSPC), ("fsync", errno.EIO), ("replace", errno.EACCES)]
)
@pytest.mark.parametrize("forever", [True, False])
def test_the_nth_call_that_fails_loses_nothing_committed(kit, tmp_path, monkeypatch, name, code, forever):
    with monkeypatch.context() as patch:
        counter = Failing(name, -1, code, patch, False)
        run(kit, tmp_path / "count.h5")
    total = counter.calls
    assert total >= 5
    step = max(1, total // 5)
    for number in range(1, total + 1, step):
        path = tmp_path / f"{name}{number}" / "photos.h5"
        path.parent.mkdir()
        with monkeypatch.context() as patch:
            Failing(name, number, code, patch, forever)
            with pytest.raises(StoreError, match=r"Cannot write .*(photos\.h5|part-)") as caught:
                run(kit, path)
        assert "\n" not in str(caught.value)
        committed = list(path.parent.glob("photos.h5.parts/part-*.h5"))
        with kit.writer(path) as writer:
            assert writer.notes == []
            assert len(writer.known) >= 2 * len(committed)
        run(kit, path)
        check(kit, path)


def test_a_full_disk_names_the_remedy(kit, path, monkeypatch):
    with kit.writer(path) as writer:
        writer.add(*kit.rows(KEYS))
        with monkeypatch.context() as patch:
            Failing("write", 1, errno.ENOSPC, patch, True)
            with pytest.raises(StoreError, match=r"No space left.*free space.*can be resumed"):
                writer.flush()
        writer.finish(kit.images(KEYS), [], {})
    check(kit, path)


def test_short_writes_are_continued(kit, path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:1000]))
    run(kit, path)
    check(kit, path)


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import conftest, test_faults
from pathlib import Path
kit, path = conftest.Kit(), Path(sys.argv[2])
{body}
"""

LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
from featx.errors import StoreError
try:
    test_faults.run(kit, path)
except StoreError as error:
    print(error)
    sys.exit(3)
"""

KILLED = """
import os, signal
name, number = sys.argv[3], int(sys.argv[4])
real, calls = getattr(os, name), 0
def deadly(*args, **kwargs):
    global calls
    calls += 1
    if calls == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(os, name, deadly)
test_faults.run(kit, path)
"""


def child(kit, body, path, *arguments):
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", CHILD.format(body=body), here, str(path), *map(str, arguments)]
    return subprocess.run(command, env=kit.environment(), capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", [0, 2000, 8000])
def test_a_file_size_limit_is_an_error_and_no_crash(kit, path, limit):
    done = child(kit, LIMITED, path, limit)
    assert done.returncode == 3, done.stderr
    assert "File too large" in done.stdout
    assert str(path) in done.stdout
    assert not path.exists()
    run(kit, path)
    check(kit, path)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("name", "number"),
    [("write", 4), ("fsync", 3), ("replace", 2), ("replace", 3), ("replace", 5), ("fsync", 11)],
)
def test_a_kill_loses_no_committed_part(kit, path, name, number):
    done = child(kit, KILLED, path, name, number)
    assert done.returncode == -signal.SIGKILL, done.stderr
    committed = list(path.parent.glob("photos.h5.parts/part-*.h5"))
    with kit.writer(path) as writer:
        assert writer.notes == []
        assert len(writer.known) == (2 * len(committed) if committed else 0)
    run(kit, path)
    check(kit, path)
