"""Signals end a command in order, and a second one ends it at once; what was finished is kept."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import weakref

import fakecli
import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import featx
from featx.cli import cli
from featx.cli.signals import Terminated, first_signal_unwinds
from featx.errors import FeatxError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")

IMAGES, BATCH = 48, 4
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
WORDS = {"SIGINT": "Interrupted.", "SIGTERM": "Terminated.", "SIGHUP": "Hung up."}
PATIENCE = 60

# Every fsync waits while the file FLAG is there, and says so by one byte more in FLAG.hanging.
HANGING = """
import os, time
real, flag = os.fsync, {flag!r}
def fsync(descriptor):
    if os.path.exists(flag):
        with open(flag + ".hanging", "a") as file:
            file.write("x")
        while os.path.exists(flag):
            time.sleep(0.01)
    real(descriptor)
os.fsync = fsync
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fakecli.make_photos(tmp_path_factory.mktemp("source"), IMAGES)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """A store made without a break."""
    path = tmp_path_factory.mktemp("whole") / "x.h5"
    assert fakecli.finish("extract", photos, "-o", path).returncode == 0
    return featx.FeatureStore(path)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "x.h5"


def start(photos, store, *more, ignored=(), **options):
    """Start an extraction in which every batch becomes a part and takes a while."""

    def dispositions():
        # A shell's background jobs start with SIGINT ignored, and what nohup starts with SIGHUP ignored.
        for name in CODES:
            signal.signal(getattr(signal, name), signal.SIG_IGN if name in ignored else signal.SIG_DFL)

    arguments = ["extract", photos, "-o", store, "--batch-size", BATCH, *more]
    return subprocess.Popen(
        fakecli.command(*arguments, **({"pause": 0.05} | options)),
        env=fakecli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=dispositions,
    )


def parts(store):
    return sorted(store.parent.glob(f"{store.name}.parts/part-*.h5"))


def digests(part):
    with h5py.File(part) as file:
        return [row.tobytes() for row in file["rows/digest"][:]]


def wait(process, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def check_resume(photos, store, whole):
    """The next run uses every part that is there, and the store equals one made without a break."""
    # A signal between the end of a part and the next line writes its rows once more, which does no harm.
    kept = len({digest for part in parts(store) for digest in digests(part)})
    done = fakecli.finish("extract", photos, "-o", store, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["reused"] == kept
    assert summary["computed"] == IMAGES - kept
    assert [path.name for path in store.parent.iterdir() if path.name.startswith("x.h5")] == ["x.h5"]
    resumed = featx.FeatureStore(store)
    resumed.verify()
    assert resumed.names == whole.names
    assert np.array_equal(resumed.digests, whole.digests)
    assert np.array_equal(resumed.X("fake"), whole.X("fake"))


@pytest.mark.parametrize("name", CODES)
def test_the_first_signal_keeps_what_is_finished(name, photos, store, whole):
    process = start(photos, store, "--json")
    wait(process, lambda: len(parts(store)) >= 2)
    process.send_signal(getattr(signal, name))
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == CODES[name], errors
    assert output == ""
    last = errors.splitlines()[-1]
    assert last == f"{WORDS[name]} What was finished is kept; run the same command to go on."
    assert all(line.startswith("embed: ") for line in errors.splitlines()[:-1])
    assert sorted(entry.name for entry in store.parent.iterdir()) == ["x.h5.parts"]
    assert 2 <= len(parts(store)) < IMAGES // BATCH
    assert set(store.with_name("x.h5.parts").iterdir()) == set(parts(store))
    check_resume(photos, store, whole)


@pytest.mark.parametrize(
    ("first", "second"),
    [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM"), ("SIGHUP", "SIGINT")],
)
def test_the_second_signal_ends_at_once(first, second, photos, store, whole, tmp_path):
    flag, hanging = tmp_path / "flag", tmp_path / "flag.hanging"
    process = start(photos, store, before=HANGING.format(flag=str(flag)))
    wait(process, lambda: len(parts(store)) >= 2)
    flag.touch()
    wait(process, lambda: hanging.exists() and hanging.read_text() == "x")
    process.send_signal(getattr(signal, first))
    # The part in flight is dropped, and then its rows are written once more.
    wait(process, lambda: hanging.read_text() == "xx")
    process.send_signal(getattr(signal, second))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == -getattr(signal, second), errors
    assert "Traceback" not in errors
    flag.unlink()
    check_resume(photos, store, whole)


def test_the_shell_and_the_kernel_may_both_tell_that_the_terminal_is_gone(photos, store, whole, tmp_path):
    flag, hanging = tmp_path / "flag", tmp_path / "flag.hanging"
    process = start(photos, store, before=HANGING.format(flag=str(flag)))
    wait(process, lambda: len(parts(store)) >= 2)
    flag.touch()
    wait(process, lambda: hanging.exists() and hanging.read_text() == "x")
    process.send_signal(signal.SIGHUP)
    wait(process, lambda: hanging.read_text() == "xx")
    before = len(parts(store))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    flag.unlink()
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 129, errors
    assert len(parts(store)) == before + 1
    check_resume(photos, store, whole)


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_what_is_ignored_from_the_start_stays_ignored(name, photos, store):
    process = start(photos, store, ignored=[name])
    wait(process, lambda: len(parts(store)) >= 1)
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert len(featx.FeatureStore(store)) == IMAGES


def test_a_terminal_that_goes_away(photos, store, whole):
    import fcntl
    import pty
    import termios

    master, slave = pty.openpty()

    def take_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    # What it says when all is over must not be an error either: the terminal takes no more.
    process = subprocess.Popen(
        fakecli.command("extract", photos, "-o", store, "--batch-size", BATCH, pause=0.05),
        env=fakecli.environment(),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(slave)
    wait(process, lambda: len(parts(store)) >= 2)
    os.close(master)
    assert process.wait(PATIENCE) == 129
    assert sorted(entry.name for entry in store.parent.iterdir()) == ["x.h5.parts"]
    check_resume(photos, store, whole)


def test_a_real_network_is_interrupted(tmp_path):
    folder = fakecli.make_photos(tmp_path, 300, (64, 64))
    command = [sys.executable, "-m", "featx", "extract", str(folder), "-o", str(tmp_path / "x.h5")]
    process = subprocess.Popen(
        [*command, "--backbone", "squeezenet1_1", "--weights", "none", "--batch-size", "1"],
        env=fakecli.environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait(process, (tmp_path / "x.h5.parts").exists)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert "run the same command to go on" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "Interrupted. What was finished is kept; run the same command to go on."),
        (Terminated("Hung up", 129), 129, "Hung up. What was finished is kept;"),
        (FeatxError("no"), 1, "Error: no"),
    ],
)
def test_what_was_lost_on_the_way_is_said_too(monkeypatch, error, code, text):
    def extract(*arguments, **options):
        error.add_note("The rows not yet in a part were dropped:\nno space")
        raise error

    monkeypatch.setattr(featx, "extract", extract)
    result = CliRunner().invoke(cli, ["extract", "a", "-o", "b"])
    assert result.exit_code == code
    assert result.stderr.startswith(text)
    assert result.stderr.endswith(" The rows not yet in a part were dropped: no space\n")
    assert result.stderr.count("\n") == 1


class TestWhereItIsRaised:
    """An exception out of a callback is lost or becomes another one; so it comes a moment later."""

    @pytest.fixture(autouse=True)
    def handlers(self):
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM]
        before, hook = {number: signal.getsignal(number) for number in numbers}, sys.unraisablehook
        yield
        assert sys.unraisablehook is hook
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        for number, handler in before.items():
            signal.signal(number, handler)

    def check(self, call_back, number=signal.SIGTERM, error=Terminated):
        done = []

        def go_on():
            signal.raise_signal(number)
            done.append(True)

        def work():
            with first_signal_unwinds():
                call_back(go_on)
                deadline = time.monotonic() + PATIENCE
                while time.monotonic() < deadline:
                    time.sleep(0.001)

        with pytest.raises(error) as caught:
            work()
        assert caught.traceback[-1].name != "remove"
        return done

    @pytest.mark.parametrize(
        ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
    )
    def test_at_once_in_plain_code(self, number, error):
        assert self.check(lambda go_on: go_on(), number, error) == []

    def test_a_weak_reference_goes(self):
        class Thing:
            pass

        def call_back(go_on):
            thing = Thing()
            watched = weakref.ref(thing, lambda _: go_on())
            del thing
            assert watched() is None

        self.check(call_back)  # it was raised in there, and ignored

    def test_a_destructor(self):
        class Thing:
            def __del__(self):
                self.go_on()

        def call_back(go_on):
            Thing.go_on = staticmethod(go_on)
            Thing()

        assert self.check(call_back) == [True]

    def test_hdf5_walks_through_a_file(self, tmp_path):
        def call_back(go_on):
            with h5py.File(tmp_path / "a.h5", "w") as file:
                file.create_group("group")
                file.visit(lambda name: go_on())

        assert self.check(call_back) == [True]

    def test_hdf5_writes_to_a_file_object(self):
        class Raw(io.RawIOBase):
            def write(self, data):
                if not done:
                    done.append(True)
                    self.go_on()
                return self.buffer.write(data)

            def readinto(self, data):
                return self.buffer.readinto(data)

            def seek(self, *arguments):
                return self.buffer.seek(*arguments)

            def truncate(self, size=None):
                return self.buffer.truncate(size)

            def tell(self):
                return self.buffer.tell()

        done = []

        def call_back(go_on):
            raw = Raw()
            raw.buffer, raw.go_on = io.BytesIO(), go_on
            properties = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
            properties.set_fileobj_driver(h5py.h5fd.fileobj_driver, raw)
            h5py.h5f.create(b"a.h5", h5py.h5f.ACC_TRUNC, fapl=properties).close()

        assert self.check(call_back) == [True]

    def test_a_command_that_ends_before_is_done(self):
        with first_signal_unwinds():
            before = signal.getsignal(signal.SIGTERM)
            assert before is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is not before
