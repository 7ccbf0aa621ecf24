from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from featx.errors import StoreError, StoreLockedError
from featx.files import remove_temporaries
from featx.store import lockfile, locking
from featx.store.locking import WriterLock
from featx.store.reader import FeatureStore

posix = pytest.mark.skipif(lockfile.fcntl is None, reason="there, open files cannot be replaced")

HOLD = """
import sys
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


@pytest.fixture
def held(path):
    lock = WriterLock(path)
    lock.acquire()
    yield lock
    lock.release()


def age(file, seconds):
    now = time.time()
    os.utime(file, (now - seconds, now - seconds))


def leave(file, seconds, **changes):
    """Write the lock file of a holder, by default on another host, that beat so many seconds ago."""
    holder = {"host": "far", "boot": "another", "pid": 4711, "since": "2030-01-01T00:00:00+00:00"}
    file.write_text(json.dumps(holder | changes))
    age(file, seconds)


def names(path):
    return sorted(entry.name for entry in path.parent.iterdir())


def wait_until(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def before(monkeypatch, owner, name, action):
    """Do something once, just before a function is called for the first time."""
    real, left = getattr(owner, name), [action]

    def first_something_else(*args, **kwargs):
        if left:
            left.pop()(*args, **kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, first_something_else)


def test_a_second_process_is_kept_out_and_told_who_holds_it(kit, path, holder):
    with pytest.raises(StoreLockedError, match=rf"process {holder.pid} on .+ since 20\d\d-") as caught:
        kit.writer(path).__enter__()
    assert "choose another output" in str(caught.value)
    assert json.loads(path.with_name("photos.h5.lock").read_text())["pid"] == holder.pid
    holder.communicate("\n", timeout=30)
    kit.store(path, range(2))
    assert names(path) == ["photos.h5"]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_dead_holder_never_blocks(kit, path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait(30)
    assert path.with_name("photos.h5.lock").exists()
    kit.store(path, range(2))
    assert names(path) == ["photos.h5"]


RACE = """
import fcntl, json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_locking
from featx.errors import StoreLockedError
from featx.store import lockfile, locking
from featx.store.locking import WriterLock

path, racers = Path(sys.argv[2]), 8
lock = WriterLock(path)
for situation in sys.argv[3:]:
    busy = None
    if situation == "dead":
        child = os.fork()
        if child == 0:
            lock.acquire()
            os._exit(0)
        os.waitpid(child, 0)
        assert lock.path.exists()
    elif not situation.startswith("new"):
        test_locking.leave(lock.path, 1000)
    if situation == "unheard":
        busy = os.open(lock.path, os.O_RDWR)
        fcntl.flock(busy, fcntl.LOCK_EX)
    gate, results, done = os.pipe(), os.pipe(), os.pipe()
    for _ in range(racers):
        if os.fork() == 0:
            os.close(gate[1])
            os.close(done[1])
            if situation.endswith("apart"):
                lockfile.boot_id = lambda: str(os.getpid())
                lockfile.try_lock = lambda descriptor, path: True
            os.read(gate[0], 1)
            text = None
            try:
                lock.acquire()
                lock.confirm()
            except StoreLockedError as error:
                text = str(error)
            os.write(results[1], json.dumps([situation, os.getpid(), text]).encode() + b"\\n")
            os.read(done[0], 1)
            if text is None:
                lock.confirm()
                lock.release()
            os._exit(0)
    os.close(gate[1])
    os.close(results[1])
    with open(results[0]) as lines:
        for _ in range(racers):
            print(lines.readline(), end="")
        os.close(done[1])
        assert all(os.wait()[1] == 0 for _ in range(racers))
    for descriptor in (gate[0], done[0], *([] if busy is None else [busy])):
        os.close(descriptor)
    assert list(path.parent.iterdir()) == [], list(path.parent.iterdir())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_of_eight_at_once_exactly_one_wins(kit, path):
    """A new lock, that of a dead process, and that of another host, of whose death the server may not know.

    The last two are played by processes that flock does not reach, as on as many hosts.
    """
    rounds = ["new", "dead", "far", "unheard", "new apart", "far apart"] * 8
    done = subprocess.run(
        [sys.executable, "-c", RACE, os.path.dirname(__file__), str(path), *rounds],
        env=kit.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 8 * len(rounds)
    for number, situation in enumerate(rounds):
        outcomes = lines[8 * number : 8 * number + 8]
        winners = [pid for _, pid, text in outcomes if text is None]
        assert len(winners) == 1, outcomes
        losers = [text for _, _, text in outcomes if text is not None]
        assert all(" is being written by process " in text for text in losers)
        if situation.startswith("new"):
            assert all(f" process {winners[0]} on " in text for text in losers), outcomes


def test_two_writers_in_one_process_exclude_each_other(kit, path):
    with kit.writer(path), pytest.raises(StoreLockedError, match=f"process {os.getpid()} "):
        kit.writer(path).__enter__()


def test_the_lock_is_given_back_after_an_error(kit, path):
    with pytest.raises(ValueError, match="boom"), kit.writer(path):
        raise ValueError("boom")
    kit.store(path, range(2))


def test_readers_take_no_lock(kit, path):
    kit.store(path, range(3))
    lock = WriterLock(path)
    lock.acquire()
    before = lock.path.stat()
    with FeatureStore(path) as store:
        store.verify()
        assert len(store.names) == 3
        lock.confirm()
    assert os.path.samestat(lock.path.stat(), before)
    lock.release()
    assert names(path) == ["photos.h5"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # it is what we test
def test_a_forked_child_does_not_keep_the_lock(path, monkeypatch):
    monkeypatch.setattr(lockfile, "BEAT_SECONDS", 0.01)
    lock = WriterLock(path)
    lock.acquire()
    reading, writing = os.pipe()
    ready, started = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            beating = any(thread.name == "featx-heartbeat" for thread in threading.enumerate())
            try:
                lock.confirm()
                told = b"confirmed"
            except StoreLockedError:
                told = b"refused"
            lock.release()  # not the child's to give back
            os.write(started, b"beating" if beating else told)
            os.read(reading, 1)
        finally:
            os._exit(0)
    os.close(started)
    try:
        assert os.read(ready, 9) == b"refused"
        assert lock.path.exists()
        # What the kernel does when this process dies: thread and descriptor go, without an unlock.
        lock._stop.set()
        lock._heart.join()
        descriptor, lock._descriptor = lock._descriptor, None
        lockfile.close(descriptor)
        other = WriterLock(path)
        other.acquire()
        other.release()
    finally:
        os.write(writing, b"x")
        os.waitpid(child, 0)
        for pipe in (reading, writing, ready):
            os.close(pipe)


@posix
@pytest.mark.parametrize("still_locked", [False, True])
def test_a_lock_file_removed_meanwhile_is_noticed(path, monkeypatch, still_locked):
    """Another writer removes its lock file between our open and our lock, and may not be through."""
    first = WriterLock(path)
    first.acquire()
    before(
        monkeypatch,
        lockfile,
        "try_lock",
        lambda descriptor, name: name.unlink() if still_locked else first.release(),
    )
    lock = WriterLock(path)
    lock.acquire()
    first.release()
    lock.confirm()
    with pytest.raises(StoreLockedError):
        WriterLock(path).acquire()
    lock.release()
    assert names(path) == []


@posix
def test_the_temporary_file_removed_meanwhile_does_no_harm(path, monkeypatch):
    """Another writer clears up what it takes for the remains of a kill."""
    before(monkeypatch, os, "link", lambda *names: remove_temporaries(path))
    lock = WriterLock(path)
    lock.acquire()
    lock.confirm()
    lock.release()
    assert names(path) == []


# ---------------------------------------------------------------------------- other hosts


def test_another_host_that_beats_blocks_though_flock_does_not_reach_it(path, monkeypatch):
    lock = WriterLock(path)
    leave(lock.path, 40)
    # The clock of this host is wrong, which must not matter.
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with pytest.raises(
        StoreLockedError, match=r"process 4711 on far since 2030.*heartbeat is [4-7]\d s old .*after 120 s"
    ):
        lock.acquire()
    assert json.loads(lock.path.read_text())["pid"] == 4711
    assert names(path) == ["photos.h5.lock"]


@pytest.mark.parametrize("seconds", [121, -1000])
def test_another_host_without_a_beat_for_two_minutes_is_dead(path, seconds):
    """Beats in the future are as old: the server's clock was put back since."""
    lock = WriterLock(path)
    leave(lock.path, seconds)
    lock.acquire()
    lock.confirm()
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    assert names(path) == ["photos.h5.lock"]
    lock.release()
    assert names(path) == []


@posix
def test_the_server_never_heard_of_the_death(path):
    import fcntl

    lock = WriterLock(path)
    leave(lock.path, 40)
    with lock.path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(
            StoreLockedError, match=r"process 4711 on far since 2030.*; wait until it is done"
        ):
            lock.acquire()
        age(lock.path, 121)
        lock.acquire()
        lock.confirm()
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()} "):
            WriterLock(path).acquire()
        lock.release()
    assert names(path) == []


@pytest.mark.parametrize(
    ("holder", "blocks"),
    [
        ({"host": "another-container", "boot": "kernel"}, False),
        ({"host": "here", "boot": "another"}, True),
        ({"host": "here", "boot": ""}, False),
        ({"host": "there", "boot": ""}, True),
    ],
)
def test_what_counts_as_one_host(path, monkeypatch, holder, blocks):
    """Containers share a kernel, so flock reaches them; without a boot id the name of the host counts."""
    monkeypatch.setattr(lockfile, "boot_id", lambda: "kernel")
    monkeypatch.setattr(lockfile.socket, "gethostname", lambda: "here")
    lock = WriterLock(path)
    leave(lock.path, 5, **holder)
    if blocks:
        with pytest.raises(StoreLockedError, match=r"heartbeat is \d+ s old"):
            lock.acquire()
    else:
        lock.acquire()
        lock.release()


def test_a_system_without_boot_ids_goes_by_the_name(path, monkeypatch):
    monkeypatch.setattr(lockfile, "_BOOT_ID", path / "nowhere")
    lock = WriterLock(path)
    leave(lock.path, 5, host=lockfile.socket.gethostname())
    lock.acquire()
    assert json.loads(lock.path.read_text())["boot"] == ""
    lock.release()


@posix
def test_a_silent_holder_of_our_own_kernel_is_not_taken_over(held):
    """It may be stopped, and flock says that it lives."""
    age(held.path, 10_000)
    with pytest.raises(StoreLockedError, match="wait until it is done, stop it, or choose another output"):
        WriterLock(held.store).acquire()
    held.confirm()


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"host": "far"}', '{"host": "far", "pid": "x", "since": 1}']
)
def test_a_file_without_a_name_blocks_only_while_locked(path, text):
    lock = WriterLock(path)
    lock.path.write_text(text)
    lock.acquire()
    lock.release()
    if lockfile.fcntl is not None:
        with lock.path.open("w") as file:
            file.write(text)
            file.flush()
            lockfile.fcntl.flock(file, lockfile.fcntl.LOCK_EX)
            age(lock.path, 10_000)
            with pytest.raises(StoreLockedError, match="written by another process; wait"):
                lock.acquire()


# ---------------------------------------------------------------------------- takeovers that collide


@posix
def test_a_taker_that_comes_late_lets_go(path, monkeypatch):
    """It found the holder dead, and another took over before it did."""
    leave(path.with_name("photos.h5.lock"), 1000)
    winner, late = WriterLock(path), WriterLock(path)
    before(monkeypatch, WriterLock, "_replace", lambda *_: winner.acquire())
    with pytest.raises(StoreLockedError, match=f"written by process {os.getpid()} on"):
        late.acquire()
    winner.confirm()
    assert names(path) == ["photos.h5.lock"]
    winner.release()
    assert names(path) == []


@posix
def test_a_holder_that_wakes_up_during_the_takeover_keeps_its_lock(path, monkeypatch):
    lock = WriterLock(path)
    leave(lock.path, 1000)
    inode = lock.path.stat().st_ino
    before(monkeypatch, WriterLock, "_create", lambda *_: os.utime(lock.path))
    with pytest.raises(StoreLockedError, match=r"process 4711 on far .* heartbeat is \d+ s old"):
        lock.acquire()
    assert lock.path.stat().st_ino == inode
    assert names(path) == ["photos.h5.lock"]


@posix
@pytest.mark.parametrize(
    ("seconds", "holder", "blocks"),
    [(1000, {}, False), (5, {}, True), (5, {"boot": "kernel"}, False)],
    ids=["died on another host", "lives on another host", "died here"],
)
def test_a_taker_that_died_blocks_nobody(path, monkeypatch, seconds, holder, blocks):
    monkeypatch.setattr(lockfile, "boot_id", lambda: "kernel")
    lock = WriterLock(path)
    leave(lock.path, 1000)
    state = lock.path.stat()
    claim = path.with_name(f"featx-{state.st_ino:x}-{state.st_mtime_ns:x}.lock")
    leave(claim, seconds, pid=4712, **holder)
    if blocks:
        with pytest.raises(StoreLockedError, match="written by process 4712 on far"):
            lock.acquire()
        assert names(path) == sorted([claim.name, "photos.h5.lock"])
    else:
        lock.acquire()
        lock.confirm()
        assert names(path) == ["photos.h5.lock"]
        lock.release()


@posix
def test_a_takeover_that_fails_leaves_nothing(path, monkeypatch):
    lock = WriterLock(path)
    leave(lock.path, 1000)

    def refuse(*names):
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(StoreError, match=r"Cannot write .*photos\.h5\.lock: Permission denied"):
            lock.acquire()
    assert names(path) == ["photos.h5.lock"]
    assert not lockfile.held
    lock.acquire()
    lock.release()


# ---------------------------------------------------------------------------- having been taken over


@posix
def test_who_was_taken_over_is_told_before_it_publishes(held):
    """The file now is another's, which release must leave alone."""
    other = held.path.with_name("other")
    leave(other, 3)
    os.replace(other, held.path)
    with pytest.raises(StoreLockedError, match=r"taken over by process 4711 on far since .* run the same"):
        held.confirm()
    held.release()
    assert json.loads(held.path.read_text())["pid"] == 4711


@posix
def test_who_sleeps_is_taken_over_and_learns_it(path, monkeypatch):
    """Both ways in one process, which plays two kernels; flock holds, as if nobody heard of a death."""
    sleeper, taker = WriterLock(path), WriterLock(path)
    sleeper.acquire()
    monkeypatch.setattr(lockfile, "boot_id", lambda: "another")
    with pytest.raises(StoreLockedError):
        taker.acquire()
    age(sleeper.path, 121)
    taker.acquire()
    with pytest.raises(StoreLockedError, match="has been taken over by process"):
        sleeper.confirm()
    sleeper.release()
    taker.confirm()
    taker.release()
    assert names(path) == []


@posix
def test_a_lock_file_that_was_removed_is_lost(held):
    held.path.unlink()
    with pytest.raises(StoreLockedError, match="has been removed"):
        held.confirm()


@posix
def test_a_server_that_forgot_the_file_is_believed(held, monkeypatch):
    def stale(*args):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "utime", stale)
    with pytest.raises(StoreLockedError, match="taken over by"):
        held.confirm()


def test_a_confirmation_is_a_sign_of_life(held):
    age(held.path, 1000)
    held.confirm()
    assert time.time() - held.path.stat().st_mtime < 500


def test_nothing_is_confirmed_without_a_lock(path):
    lock = WriterLock(path)
    with pytest.raises(StoreLockedError, match="take its lock first"):
        lock.confirm()
    lock.acquire()
    lock.release()
    with pytest.raises(StoreLockedError, match="take its lock first"):
        lock.confirm()


# ---------------------------------------------------------------------------- the heartbeat


def test_the_heart_beats_while_the_lock_is_held(path, monkeypatch):
    monkeypatch.setattr(lockfile, "BEAT_SECONDS", 0.01)
    lock = WriterLock(path)
    lock.acquire()
    for _ in range(2):
        age(lock.path, 1000)
        wait_until(lambda: time.time() - lock.path.stat().st_mtime < 500)
    heart = lock._heart
    assert heart.daemon
    lock.release()
    assert not heart.is_alive()


def test_a_beat_under_way_ends_before_the_descriptor_goes(path, monkeypatch):
    """Its number may be that of another file by then."""
    beating, released, early = threading.Event(), threading.Event(), []
    lock = WriterLock(path)

    def slow(descriptor, name):
        beating.set()
        assert lock._stop.wait(60)
        early.append(released.wait(0.2))

    monkeypatch.setattr(lockfile, "BEAT_SECONDS", 0.01)
    lock.acquire()
    heart = lock._heart
    monkeypatch.setattr(lockfile, "touch", slow)
    assert beating.wait(60)
    lock.release()
    released.set()
    heart.join(60)
    assert early == [False]


def test_the_heart_stops_at_once(path):
    """Within its 30 s, which release does not wait for."""
    lock = WriterLock(path)
    lock.acquire()
    heart, thread = lock._heart, threading.Thread(target=lock.release, daemon=True)
    assert heart.is_alive()
    thread.start()
    thread.join(20)
    assert not heart.is_alive()
    assert names(path) == []


@posix
def test_one_beat_that_fails_is_not_the_last(path, monkeypatch):
    monkeypatch.setattr(lockfile, "BEAT_SECONDS", 0.01)
    lock = WriterLock(path)
    lock.acquire()
    failed = threading.Event()

    def fail(*args):
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", fail)
        assert failed.wait(60)
        lock.confirm()
    age(lock.path, 1000)
    wait_until(lambda: time.time() - lock.path.stat().st_mtime < 500)
    lock.release()


@posix
def test_the_heart_keeps_nobody_else_alive(path, monkeypatch):
    """Once taken over, it does not touch the file of the one who did."""
    monkeypatch.setattr(lockfile, "BEAT_SECONDS", 0.01)
    lock = WriterLock(path)
    lock.acquire()
    other = path.with_name("other")
    leave(other, 1000)
    os.replace(other, lock.path)
    real, beats = lockfile.touch, []
    monkeypatch.setattr(lockfile, "touch", lambda *args: beats.append(real(*args)))
    wait_until(lambda: len(beats) >= 2)
    assert time.time() - lock.path.stat().st_mtime > 500
    lock.release()


def test_a_heart_that_cannot_start_leaves_no_lock(path, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            WriterLock(path).acquire()
    assert names(path) == []
    lock = WriterLock(path)
    lock.acquire()
    lock.release()


# ---------------------------------------------------------------------------- waiting


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves by sleeping only."""

    class Clock:
        now, naps = 100.0, 0

        def sleep(self, seconds):
            assert 0 < seconds <= 0.05
            self.now += seconds
            self.naps += 1

    clock = Clock()
    monkeypatch.setattr(locking.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(locking.time, "sleep", clock.sleep)
    return clock


def test_by_default_nobody_waits(held, clock):
    with pytest.raises(StoreLockedError):
        WriterLock(held.store).acquire()
    assert clock.naps == 0


def test_waiting_ends(held, clock):
    with pytest.raises(StoreLockedError, match=f"process {os.getpid()} "):
        WriterLock(held.store).acquire(wait_seconds=1.02)
    assert clock.now == pytest.approx(101.02)
    assert clock.naps in (21, 22)


def test_waiting_gets_the_lock_once_it_is_free(path, clock, monkeypatch):
    first, second = WriterLock(path), WriterLock(path)
    first.acquire()
    real = clock.sleep

    def sleep(seconds):
        real(seconds)
        if clock.naps == 3:
            first.release()

    monkeypatch.setattr(locking.time, "sleep", sleep)
    second.acquire(wait_seconds=5)
    assert clock.naps == 3
    second.confirm()
    second.release()


def test_many_who_wait_take_turns(path):
    """Read, add one, write: nothing is lost if and only if they exclude each other."""
    counter = path.with_name("counter")
    counter.write_text("0")

    def add():
        for _ in range(5):
            lock = WriterLock(path)
            lock.acquire(wait_seconds=60)
            value = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(value + 1))
            lock.release()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert counter.read_text() == "20"
    assert names(path) == ["counter"]


# ---------------------------------------------------------------------------- other file systems


@posix
@pytest.mark.parametrize("found", ["nothing", "the dead"])
def test_a_file_system_without_links(path, monkeypatch, found):
    def refuse(*names):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    lock = WriterLock(path)
    if found == "the dead":
        leave(lock.path, 1000)
    lock.acquire()
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    with pytest.raises(StoreLockedError, match=f"process {os.getpid()} "):
        WriterLock(path).acquire()
    lock.confirm()
    lock.release()
    assert names(path) == []


@posix
@pytest.mark.parametrize("found", ["nothing", "the dead", "the living"])
def test_a_temporary_that_cannot_be_removed_stops_nobody(path, monkeypatch, found):
    """It once was an error after the lock was taken, and nobody gave the lock back."""
    real = os.unlink

    def unlink(name, **options):
        if str(name).endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        real(name, **options)

    lock = WriterLock(path)
    if found != "nothing":
        leave(lock.path, 1000 if found == "the dead" else 5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        if found == "the living":
            with pytest.raises(StoreLockedError, match="on far since"):
                lock.acquire()
            lock.path.unlink()
        else:
            lock.acquire()
            lock.confirm()
            lock.release()
    remove_temporaries(path)
    assert names(path) == []
    assert not lockfile.held


@pytest.mark.parametrize("found", ["nothing", "the dead"])
def test_a_name_as_long_as_names_may_be(tmp_path, found):
    lock = WriterLock(tmp_path / ("x" * 247 + ".h5"))
    if found == "the dead":
        leave(lock.path, 1000)
    lock.acquire()
    lock.confirm()
    lock.release()
    assert names(lock.path) == []


@posix
def test_the_file_of_another_user_need_not_be_writable(path, monkeypatch):
    lock = WriterLock(path)
    leave(lock.path, 1000)
    real = os.open

    def guarded(name, flags, *mode):
        if name == lock.path and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(name, flags, *mode)

    monkeypatch.setattr(os, "open", guarded)
    lock.acquire()
    lock.confirm()
    lock.release()


@posix
def test_the_way_of_windows(path, monkeypatch):
    """One file, locked and written again; the kernel's lock is played by flock."""
    real = lockfile.fcntl
    monkeypatch.setattr(lockfile, "fcntl", None)
    monkeypatch.setattr(
        lockfile, "_lock_windows", lambda descriptor: real.flock(descriptor, real.LOCK_EX | real.LOCK_NB)
    )
    lock = WriterLock(path)
    leave(lock.path, 5, since="a text longer than what comes after it, which must not show through" * 3)
    with pytest.raises(StoreLockedError, match=r"heartbeat is \d+ s old"):
        lock.acquire()
    age(lock.path, 121)
    with lock.path.open() as file:
        real.flock(file, real.LOCK_EX)
        with pytest.raises(StoreLockedError, match="process 4711 on far"):
            lock.acquire()
    inode = lock.path.stat().st_ino
    lock.acquire()
    assert lock.path.stat().st_ino == inode
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    with pytest.raises(StoreLockedError, match=f"process {os.getpid()} "):
        WriterLock(path).acquire()
    lock.confirm()
    lock.release()
    assert names(path) == []
