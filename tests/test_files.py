from __future__ import annotations

import errno
import os

import pytest

from featx import files
from featx.errors import StoreError
from featx.files import disk_errors, publish


@pytest.fixture
def path(tmp_path):
    return tmp_path / "photos.h5"


def test_a_file_appears_whole_and_only_at_the_end(path):
    with publish(path) as file:
        file.write(b"hello ")
        file.write(memoryview(b"world"))
        file.patch(0, b"H")
        assert not path.exists()
    assert path.read_bytes() == b"Hello world"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(path, error):
    path.write_bytes(b"old")

    def interrupted():
        with publish(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_file_and_directory_are_synced_around_the_rename(path, monkeypatch):
    calls = []
    for name in ("write", "fsync", "replace", "close"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _name=name, _real=real: calls.append(_name) or _real(*a))
    with publish(path) as file:
        file.write(b"x")
    assert calls == ["write", "fsync", "close", "replace", "fsync", "close"]


def test_a_failing_fsync_is_not_retried(path, monkeypatch):
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreError, match="Input/output error"), publish(path) as file:
        file.write(b"x")
    assert len(calls) == 1
    assert not path.exists()


def test_space_is_asked_for_before_the_work(path, monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(StoreError, match="free space"), publish(path) as file:
        file.reserve(10**9)


def test_a_disk_that_cannot_reserve_is_written_all_the_same(path, monkeypatch):
    def unsupported(descriptor, offset, size):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    with publish(path) as file:
        file.reserve(10)
        file.write(b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "free space"),
        (errno.EACCES, "where you may write"),
        (errno.EROFS, "where you may write"),
        (errno.ENOENT, "check the path"),
        (errno.EIO, "check the disk"),
    ],
)
def test_disk_errors_name_path_reason_and_remedy(path, code, remedy):
    with pytest.raises(StoreError, match=remedy) as caught, disk_errors(path):
        raise OSError(code, os.strerror(code))
    assert str(path) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert files.TEMPORARY_SUFFIX not in str(caught.value)


def test_only_our_own_temporaries_are_removed(path):
    ours = f"{path.name}.{'0123456789abcdef' * 2}.tmp"
    theirs = [
        f"{path.name}.my-backup.tmp",
        f"{path.name}.{'0123456789abcdef' * 2}.tmp.old",
        f"other.{'0123456789abcdef' * 2}.tmp",
    ]
    for name in [ours, *theirs]:
        path.with_name(name).write_bytes(b"x")
    files.remove_temporaries(path)
    assert sorted(entry.name for entry in path.parent.iterdir()) == sorted(theirs)


def test_what_a_killed_publish_leaves_is_removed(path, monkeypatch):
    def killed(*paths):
        monkeypatch.setattr(files.Path, "unlink", lambda self: None)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt), publish(path) as file:
            file.write(b"x")
    monkeypatch.undo()
    assert len(list(path.parent.iterdir())) == 1
    files.remove_temporaries(path)
    assert list(path.parent.iterdir()) == []
