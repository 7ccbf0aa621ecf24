from __future__ import annotations

import errno
import os

import numpy as np
import pytest

import featx
from featx import files
from featx.errors import FeatxError, StoreError
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
        (errno.EISDIR, "check the path"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
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


def test_a_signal_between_the_file_and_its_descriptor_leaves_nothing(path, monkeypatch):
    real = os.open

    def interrupted(*arguments):
        os.close(real(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt), publish(path):
        raise AssertionError("not reached")
    monkeypatch.undo()
    assert list(path.parent.iterdir()) == []


def test_a_temporary_that_cannot_be_removed_is_named(path, monkeypatch):
    ours = path.with_name(f"{path.name}.{'0123456789abcdef' * 2}.tmp")
    ours.write_bytes(b"x")

    def unlink(*arguments, **options):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(StoreError, match=r"Cannot remove .*: Permission denied; choose") as caught:
        files.remove_temporaries(path)
    assert str(ours) in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127 + "x", "🐝" * 63, os.fsdecode(b"\xff" * 255)])
def test_the_longest_names_are_written(tmp_path, name):
    path = tmp_path / name
    with publish(path) as file:
        file.write(b"x")
        (temporary,) = tmp_path.iterdir()
        assert len(os.fsencode(temporary.name)) <= 143
        # What is cut is cut between characters: some file systems take whole ones only.
        assert name.startswith(temporary.name.partition("~")[0])
    assert path.read_bytes() == b"x"
    files.temporary_path(path).write_bytes(b"left by a kill")
    files.remove_temporaries(path)
    assert [os.fsencode(entry.name) for entry in tmp_path.iterdir()] == [os.fsencode(name)]


def test_long_names_that_begin_alike_keep_their_own_temporaries(tmp_path):
    first, second = tmp_path / ("x" * 200 + "1"), tmp_path / ("x" * 200 + "2")
    temporary = files.temporary_path(second)
    temporary.write_bytes(b"being written")
    files.remove_temporaries(first)
    assert temporary.exists()
    files.remove_temporaries(second)
    assert not temporary.exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A store, the results of a fit on it, and its run folder."""
    root = tmp_path_factory.mktemp("run")
    X, y = np.random.default_rng(0).normal(size=(60, 50)).astype(np.float32), np.tile(["a", "b"], 30)
    store = featx.FeatureStore.from_arrays(root / "x.h5", X, y)
    return (
        store,
        featx.fit(store, heads=["logreg"], cv=3, jobs=1, learning_curve=False, output=root / "run"),
        root / "run",
    )


def export_npz(run, folder):
    run[0].export(folder / "out.npz")


def export_csv(run, folder):
    run[0].export(folder / "out.csv")


def export_parquet(run, folder):
    pytest.importorskip("pyarrow")
    run[0].export(folder / "out.parquet")


def import_arrays(run, folder):
    featx.FeatureStore.from_arrays(folder / "out.h5", run[0].X("imported"))


def model_file(run, folder):
    from featx.modelfile import save_model

    store, results, _ = run
    save_model(
        folder / "out.featx",
        results.estimator,
        classes=np.array(["a", "b"]),
        space=store.space,
        layer=store.layers[0],
        weights={},
        card={},
        examples=store.X("imported"),
    )


def results(run, folder):
    run[1].save(folder)


def report(run, folder):
    featx.write_report(run[2], folder)


def predictions(run, folder):
    from featx.cli.writing import write_predictions
    from featx.records import Prediction

    rows = [Prediction(f"{row}.jpg", ("a",), (1.0,)) for row in range(200)]
    write_predictions(rows, str(folder / "out.csv"), None, 1, to_stdout=False)


WRITERS = (
    export_npz,
    export_csv,
    export_parquet,
    import_arrays,
    model_file,
    results,
    report,
    predictions,
)


@pytest.mark.parametrize("room", [0, 1000])
@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_an_error_that_leaves_nothing(run, write, room, tmp_path, monkeypatch):
    real, left = os.write, room

    def filling(descriptor, data):
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = real(descriptor, data[:left])
        left -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", filling)
        with pytest.raises(FeatxError, match=r"No space left on device; free space") as caught:
            write(run, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    write(run, tmp_path)
    assert list(tmp_path.iterdir())
