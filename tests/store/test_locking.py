from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from featx.errors import StoreLockedError
from featx.store.locking import WriterLock

HOLD = """
import sys, time
from pathlib import Path
from featx.store.locking import WriterLock
lock = WriterLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.readline()
lock.release()
"""


@pytest.fixture
def holder(kit, path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        env=kit.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        if process.poll() is None:
            process.kill()


def test_a_second_process_is_kept_out_and_told_who_holds_it(kit, path, holder):
    with pytest.raises(StoreLockedError, match=rf"process {holder.pid} on .+ since 20\d\d-") as caught:
        kit.writer(path).__enter__()
    assert "choose another output" in str(caught.value)
    assert json.loads(path.with_name("photos.h5.lock").read_text())["pid"] == holder.pid
    holder.communicate("\n", timeout=30)
    kit.store(path, range(2))
    assert not path.with_name("photos.h5.lock").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_dead_holder_never_blocks(kit, path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait(30)
    assert path.with_name("photos.h5.lock").exists()
    kit.store(path, range(2))
    assert not path.with_name("photos.h5.lock").exists()


def test_two_writers_in_one_process_exclude_each_other(kit, path):
    with kit.writer(path), pytest.raises(StoreLockedError, match=f"process {os.getpid()} "):
        kit.writer(path).__enter__()


def test_the_lock_is_given_back_after_an_error(kit, path):
    with pytest.raises(ValueError, match="boom"), kit.writer(path):
        raise ValueError("boom")
    kit.store(path, range(2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_the_lock(kit, path):
    lock = WriterLock(path)
    lock.acquire()
    reading, writing = os.pipe()
    ready, started = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            lock.release()  # not the child's to give back
            os.write(started, b"x")
            os.read(reading, 1)
        finally:
            os._exit(0)
    os.close(started)
    assert os.read(ready, 1) == b"x"
    assert lock.path.exists()
    # What the kernel does when this process dies: its descriptor goes, without an unlock.
    descriptor, lock._descriptor = lock._descriptor, None
    os.close(descriptor)
    from featx.store import locking

    locking._held.discard(descriptor)
    try:
        other = WriterLock(path)
        other.acquire()
        other.release()
    finally:
        os.write(writing, b"x")
        os.waitpid(child, 0)
        for pipe in (reading, writing, ready):
            os.close(pipe)


def test_a_lock_file_removed_meanwhile_is_noticed(path, monkeypatch):
    """Another writer removes its lock file between our open and our lock."""
    from featx.store import locking

    real, calls = locking._try_lock, []

    def racing(descriptor, name):
        calls.append(descriptor)
        if len(calls) == 1:
            name.unlink()
        return real(descriptor, name)

    monkeypatch.setattr(locking, "_try_lock", racing)
    lock = WriterLock(path)
    lock.acquire()
    assert len(calls) == 2
    with pytest.raises(StoreLockedError):
        WriterLock(path).acquire()
    lock.release()
