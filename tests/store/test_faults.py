"""Full disks, failing disks and kills: nothing committed is lost, nothing torn is read."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys

import fakecli
import numpy as np
import pytest

from featx.errors import NotAStoreError, StoreError
from featx.store.reader import FeatureStore

KEYS = list(range(4))

SPACE = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
ACCESS = (errno.EACCES, errno.EROFS)
CODES = {
    "write": SPACE,
    "fsync": SPACE,
    "replace": (*SPACE, *ACCESS),
    "mkdir": (*SPACE, *ACCESS),
    "open": (*SPACE, *ACCESS),
    "unlink": (errno.EIO, *ACCESS),
    "posix_fallocate": SPACE,
}


def run(kit, path, keys=KEYS):
    """Write what is missing, two rows a part; gives what was there, and the writer's notes."""
    with kit.writer(path, flush_bytes=1) as writer:
        for start in range(0, len(keys), 2):
            todo = [key for key in keys[start : start + 2] if kit.digest(key) not in writer.known]
            if todo:
                writer.add(*kit.rows(todo))
        found, notes = set(writer.known), list(writer.notes)
        writer.finish(kit.images(keys), [], {})
    return found, notes


def check(kit, path, keys=KEYS):
    with FeatureStore(path) as store:
        store.verify()
        assert np.array_equal(store.X("layer4.1"), kit.expected(keys, kit.avg))
        assert np.array_equal(store.X("classifier.4"), kit.expected(keys, kit.flat))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


class Failing:
    """Fail the nth call of a function of os, and every later one if the disk stays as it is."""

    def __init__(self, name, number, code, monkeypatch, forever):
        self.real, self.number, self.code, self.forever = getattr(os, name), number, code, forever
        self.calls = 0
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.number or (self.forever and self.calls > self.number):
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*args, **kwargs)


def fail(kit, path, name, number, code, monkeypatch, forever, keys=KEYS):
    """Run on a disk that fails; the error must name the path, unless the failure is harmless."""
    message = ""
    with monkeypatch.context() as patch:
        failing = Failing(name, number, code, patch, forever)
        try:
            run(kit, path, keys)
        except StoreError as error:
            message = str(error)
    if message:
        assert str(path.parent if name == "listdir" else path) in message
        assert os.strerror(code) in message
        assert "\n" not in message
    return failing, message


def rows_there(path):
    """Count the rows that are committed: of the store, if it is finished, and of its parts."""
    parts = [*path.parent.glob(f"{path.name}.parts/part-*.h5")]
    return len(KEYS) if path.exists() else 2 * len(parts)


@pytest.mark.parametrize("forever", [True, False])
@pytest.mark.parametrize("name", CODES)
def test_the_nth_call_that_fails_loses_nothing_committed(kit, tmp_path, monkeypatch, name, forever):
    if not hasattr(os, name):
        pytest.skip(f"os.{name} does not exist here")
    total = fail(kit, tmp_path / "count" / "photos.h5", name, -1, 0, monkeypatch, False)[0].calls
    assert total >= 2
    outcomes = set()
    for number in range(1, total + 1):
        # A disk that stays broken fails on every later call too, so that one reason each is enough.
        codes = [CODES[name][number % len(CODES[name])]] if forever else CODES[name]
        for code in codes:
            path = tmp_path / f"{number}-{code}" / "photos.h5"
            failing, message = fail(kit, path, name, number, code, monkeypatch, forever)
            outcomes.add(bool(message))
            assert message or path.exists()
            if name == "fsync":
                assert failing.calls == number
            committed = rows_there(path)
            found, notes = run(kit, path)
            assert len(found) >= committed
            assert notes == []
            check(kit, path)
    assert True in outcomes


@pytest.fixture(scope="module")
def unfinished(kit, tmp_path_factory):
    """A finished store of two rows, two parts more, one of them damaged, and what killed writers left."""
    path = tmp_path_factory.mktemp("unfinished") / "photos.h5"
    run(kit, path, KEYS[:2])
    with kit.writer(path) as writer:
        for key in KEYS[2:]:
            writer.add(*kit.rows([key]))
            writer.flush()
    parts = path.with_name(f"{path.name}.parts")
    damaged = sorted(parts.glob("part-*.h5"))[-1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    for leftover in (path, damaged):
        leftover.with_name(f"{leftover.name}.{'0123456789abcdef' * 2}.tmp").write_bytes(b"torn")
    return path


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("open", errno.EACCES),
        ("write", errno.ENOSPC),
        ("fsync", errno.EIO),
        ("replace", errno.EIO),
        ("rename", errno.EROFS),
        ("unlink", errno.EACCES),
        ("rmdir", errno.EIO),
        ("mkdir", errno.EROFS),
        ("listdir", errno.EIO),
    ],
)
def test_a_disk_that_fails_on_the_way_back(kit, unfinished, tmp_path, monkeypatch, name, code):
    failed = 0
    for number in itertools.count(1):
        path = tmp_path / f"{number}" / "photos.h5"
        shutil.copytree(unfinished.parent, path.parent)
        failing, message = fail(kit, path, name, number, code, monkeypatch, False)
        assert message or path.exists()
        found, _ = run(kit, path)
        # The damaged part is the only one that may have to be computed again.
        assert {kit.digest(key) for key in KEYS[:3]} <= found
        for aside in path.parent.glob("photos.h5.parts/*.damaged"):
            aside.unlink()
            aside.parent.rmdir()
        check(kit, path)
        if failing.calls < number:
            break
        failed += bool(message)
    assert failed or name in ("rmdir", "mkdir")  # the directory is there, or stays


def test_a_temporary_that_cannot_be_removed_goes_later(kit, path, monkeypatch):
    real = os.unlink

    def unlink(target, **options):
        if ".tmp" in str(target) and "part-" in str(target):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        _, message = fail(kit, path, "fsync", 2, errno.ENOSPC, patch, False)
        assert "part-" in message  # it names the first error, not that of clearing up
    assert len([*path.parent.rglob("*.tmp")]) == 1
    run(kit, path)
    check(kit, path)


def test_a_directory_that_cannot_be_synced_is_written_all_the_same(kit, path, monkeypatch):
    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", fsync)
    run(kit, path)
    check(kit, path)


def test_a_full_disk_names_the_remedy(kit, path, monkeypatch):
    with kit.writer(path) as writer:
        writer.add(*kit.rows(KEYS))
        with monkeypatch.context() as patch:
            Failing("write", 1, errno.ENOSPC, patch, True)
            with pytest.raises(StoreError, match=r"No space left.*free space.*run the same command again"):
                writer.flush()
        writer.finish(kit.images(KEYS), [], {})
    check(kit, path)


def test_short_writes_are_continued(kit, path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:1000]))
    run(kit, path)
    check(kit, path)


@pytest.mark.parametrize(
    "name",
    ["a/b/c/photos.h5", "x" * 227 + ".h5", "é" * 113 + ".h5", "🐝" * 60],
    ids=["directories", "long", "bytes", "characters"],
)
def test_a_path_that_is_there_soon(kit, tmp_path, name):
    path = tmp_path / "new" / name
    run(kit, path)
    check(kit, path)
    assert len(run(kit, path)[0]) == len(KEYS)


@pytest.mark.parametrize("where", ["target.h5", "new/target.h5"])
def test_a_symbolic_link_stays_one(kit, tmp_path, where):
    path = tmp_path / "photos.h5"
    path.symlink_to(where)
    run(kit, path)
    assert path.is_symlink()
    assert len(run(kit, path)[0]) == len(KEYS)
    assert np.array_equal(FeatureStore(tmp_path / where).X("layer4.1"), kit.expected(KEYS, kit.avg))


@pytest.mark.skipif(os.name != "posix", reason="POSIX's kinds of files")
@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda path: (path.mkdir(), (path / "mine.txt").touch()), NotAStoreError, "exists"),
        (os.mkfifo, NotAStoreError, "exists"),
        (lambda path: path.symlink_to("/dev/full"), NotAStoreError, "exists"),
        (lambda path: path.symlink_to(path.name), StoreError, "symbolic links"),
        (lambda path: path.with_name("photos.h5.parts").touch(), StoreError, "Not a directory"),
        (lambda path: path.with_name("photos.h5.lock").mkdir(), StoreError, "Is a directory"),
    ],
    ids=["directory", "fifo", "device", "loop", "parts", "lock"],
)
def test_what_is_in_the_way_stays(kit, path, make, error, text):
    make(path)
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(error, match=text) as caught:
        run(kit, path)
    assert str(path.parent) in str(caught.value) or "/dev/full" in str(caught.value)
    assert sorted(path.parent.rglob("*")) == before


def test_a_name_that_is_too_long(kit, tmp_path):
    with pytest.raises(StoreError, match="File name too long; choose a shorter name"):
        run(kit, tmp_path / ("x" * 252))
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_directory_should_be(kit, path):
    path.touch()
    with pytest.raises(StoreError, match="File exists; check the path"):
        run(kit, path / "photos.h5")


CHILD = """
import sys
sys.path[:0] = sys.argv[1:3]
import conftest, test_faults
from pathlib import Path
kit, path = conftest.Kit(), Path(sys.argv[3])
{body}
"""

KILLED = """
import os, signal
name, number = sys.argv[4], int(sys.argv[5])
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
    places = [here, os.path.dirname(here), str(path)]
    command = [sys.executable, "-c", CHILD.format(body=body), *places, *map(str, arguments)]
    return subprocess.run(command, env=kit.environment(), capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("name", "number"),
    [("write", 4), ("fsync", 3), ("replace", 2), ("replace", 3), ("fsync", 7)],
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


IMAGES, BATCH = 24, 4

# Runs in namespaces of its own, as their root: what it mounts is seen by nobody else and goes with it.
MOUNTED = """
import contextlib, json, shutil, subprocess, sys
from pathlib import Path
import fakecli

photos, disk, before, *options = sys.argv[1:]
disk = Path(disk)

def mount(*arguments):
    subprocess.run(["mount", *arguments, str(disk)], check=True)

def extract(before=""):
    done = fakecli.finish(
        "extract", photos, "-o", disk / "x.h5", "--batch-size", 4, "--workers", 1, "--json", before=before
    )
    names = sorted(str(path.relative_to(disk)) for path in disk.rglob("*"))
    results.append([done.returncode, done.stdout, done.stderr, names])

results = []
mount("-t", "tmpfs", "-o", options[0], "tmpfs")
extract(before)
mount("-o", "remount,ro")
extract()
mount("-o", "remount,rw,size=64m,nr_inodes=1000")
extract()
shutil.copy(disk / "x.h5", disk.parent / "copy.h5")
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fakecli.make_photos(tmp_path_factory.mktemp("source"), IMAGES)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """A store that was made on a disk without faults."""
    path = tmp_path_factory.mktemp("whole") / "x.h5"
    assert fakecli.finish("extract", photos, "-o", path).returncode == 0
    return FeatureStore(path)


@pytest.fixture(scope="module")
def namespace():
    """The command that gives a process mounts of its own."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        trial = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        tried = subprocess.run(trial, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs unshare of util-linux")
    if tried.returncode:
        pytest.skip(f"may not mount here: {tried.stderr.strip()}")
    return command


def check_one_line(stderr, path):
    """One line for people, after those of the progress."""
    assert "Traceback" not in stderr
    *progress, last = stderr.splitlines()
    assert last.startswith(f"Error: Cannot write {path}")
    assert all(line.startswith("embed: ") for line in progress)
    return last


def check_same(path, whole):
    with FeatureStore(path) as store:
        store.verify()
        assert store.names == whole.names
        assert np.array_equal(store.X("fake"), whole.X("fake"))


@pytest.mark.parametrize(
    ("options", "before", "kept"),
    [
        ("size=4k", "", range(1)),  # room for the lock and no more
        ("size=64k", "import os; del os.posix_fallocate", range(1, 6)),  # the write notices, not the request
        ("size=100k", "", range(6, 7)),  # all parts fit, and the store does not fit beside them
        ("size=1m,nr_inodes=5", "", range(1, 6)),
    ],
)
def test_a_real_full_disk(namespace, photos, whole, tmp_path, options, before, kept):
    disk = tmp_path / "disk"
    disk.mkdir()
    driver = [sys.executable, "-c", MOUNTED, str(photos), str(disk), before, options]
    done = subprocess.run(
        [*namespace, *driver], env=fakecli.environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    full, frozen, more = json.loads(done.stdout)
    for (code, stdout, stderr, names), reason in (
        (full, "No space left on device; free space"),
        (frozen, "Read-only file system; choose a path where you may write"),
    ):
        assert code == 1
        assert stdout == ""
        assert reason in check_one_line(stderr, disk / "x.h5")
        assert not [name for name in names if name.endswith((".tmp", ".lock"))]
        assert "x.h5" not in names
    parts = [name for name in full[3] if name.startswith("x.h5.parts/part-")]
    assert frozen[3] == full[3]
    assert len(parts) in kept
    code, stdout, stderr, names = more
    assert code == 0, stderr
    assert names == ["x.h5"]
    assert json.loads(stdout)["computed"] == IMAGES - BATCH * len(parts)
    check_same(tmp_path / "copy.h5", whole)


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", [0, 20000])
def test_a_file_size_limit_is_an_error_and_no_crash(photos, whole, tmp_path, limit):
    path = tmp_path / "x.h5"
    arguments = ["extract", photos, "-o", path, "--batch-size", BATCH, "--workers", 1, "--json"]
    before = f"import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({limit}, r.RLIM_INFINITY))"
    done = fakecli.finish(*arguments, before=before)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "File too large; free space" in check_one_line(done.stderr, path)
    parts = [*tmp_path.glob("x.h5.parts/part-*.h5")]
    assert sorted(tmp_path.rglob("*")) == sorted([*parts, *{part.parent for part in parts}])
    assert len(parts) == (IMAGES // BATCH if limit == 20000 else 0)
    done = fakecli.finish(*arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["computed"] == IMAGES - BATCH * len(parts)
    check_same(path, whole)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX's permissions")
@pytest.mark.parametrize("parent", [".", "new"])
def test_a_directory_without_permission(photos, tmp_path, parent):
    # A user namespace that maps no user leaves root what its own files allow, and nothing more.
    command = ["unshare", "--user"] if os.geteuid() == 0 else []
    if command and subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root may write everywhere, and cannot give that up here")
    disk = tmp_path / "disk"
    disk.mkdir()
    path = disk / parent / "x.h5"
    disk.chmod(0o555)
    try:
        done = subprocess.run(
            [*command, *fakecli.command("extract", photos, "-o", path)],
            env=fakecli.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        disk.chmod(0o755)
    assert done.returncode == 1, done.stderr
    assert "Permission denied; choose a path where you may write" in check_one_line(done.stderr, path)
    assert list(disk.iterdir()) == []
