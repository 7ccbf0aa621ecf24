import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from imagefiles import encode
from PIL import Image

from featx.errors import ImageError
from featx.images import isolation
from featx.images.decoding import POLICY
from featx.images.loading import load
from featx.images.preparing import prepare_here, prepare_image
from featx.images.sources import list_images, open_source
from featx.records import Preprocess

SQUASH = Preprocess("squash", 8, 8, "bilinear", (0, 0, 0), (1, 1, 1))
ROOT = str(Path(__file__).parents[2])

# Pixels, and behind them what the decoder is to do. BMP ends where its pixels do.
PICTURE = encode(Image.new("RGB", (8, 8), (200, 100, 50)), "BMP")
OBEYING = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
import os, signal, time
from featx.images import isolation, preparing
original = preparing.prepare_here
def prepare_here(data, preprocess, policy):
    word = data[-8:].strip(b" ")
    if word == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == b"abort":
        os.abort()
    elif word == b"killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == b"exit":
        os._exit(3)
    elif word == b"bug":
        raise ZeroDivisionError
    elif word == b"hang":
        while True:
            pass
    elif word == b"stuck":
        signal.alarm(0)
        while True:
            pass
    elif word == b"eat":
        bytearray(8 * 2**30)
    elif word == b"babble":
        print("noise", flush=True)
        os.write(1, b"noise")
    elif word == b"wrong":
        sys.stdout.flush()
        os.write(answers, bytes(range(255)))
    return original(data, preprocess, policy)
preparing.prepare_here = prepare_here
dup = os.dup
def watched(number):
    global answers
    answers = dup(number)
    return answers
os.dup = watched
isolation.main()
"""


def told(word):
    return PICTURE + word.encode().rjust(8)


def colour(data=PICTURE):
    return tuple(prepare_image(data, SQUASH, POLICY).pixels[3, 3])


def is_gone(pid):
    """Whether a process has ended; one that nobody waits for has too."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def wait_until(holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def run(script):
    """A script in an interpreter of its own, with featx to be found and what is above."""
    start = f"import sys; sys.path[:0] = {[ROOT, str(Path(__file__).parents[1])]!r}\n"
    return [sys.executable, "-c", start + script]


@pytest.fixture
def pool(monkeypatch):
    """A pool of its own, without children."""
    monkeypatch.setattr(isolation, "_pools", {})
    pool = isolation._pool()
    yield pool
    for child in pool._idle:
        child.close()


@pytest.fixture
def obeying(monkeypatch, pool):
    """Children that do what stands behind the pixels."""
    monkeypatch.setattr(isolation, "_START", OBEYING)
    return pool


def test_a_child_is_kept_for_the_next_image(pool):
    assert colour() == (200, 100, 50)
    (child,) = pool._idle
    assert colour() == (200, 100, 50)
    assert pool._idle == [child]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("crash", r"^its decoder crashed \(signal 11, SIGSEGV\): the file is damaged, or made to do that$"),
        ("abort", r"^its decoder crashed \(signal 6, SIGABRT\)"),
        ("killed", r"^its decoder was killed \(signal 9, SIGKILL\), as happens where memory runs out$"),
        ("exit", r"^its decoder crashed \(it ended with 3\)"),
        ("bug", r"^its decoder crashed \(it ended with 1\)"),
        ("wrong", r"^its decoder "),
    ],
)
def test_a_decoder_that_dies_costs_one_image(obeying, word, reason):
    assert colour() == (200, 100, 50)
    (before,) = obeying._idle
    with pytest.raises(ImageError, match=reason):
        colour(told(word))
    assert obeying._idle == []
    assert is_gone(before.pid)
    assert colour() == (200, 100, 50)
    assert obeying._idle[0].pid != before.pid


def test_one_that_takes_too_long_is_stopped(obeying, monkeypatch):
    colour()
    (child,) = obeying._idle
    monkeypatch.setattr(isolation, "DECODE_SECONDS", 0.3)
    with pytest.raises(ImageError, match=r"^decoding it took more than 0.3 s and was stopped$"):
        colour(told("stuck"))
    assert is_gone(child.pid)
    monkeypatch.undo()
    assert colour() == (200, 100, 50)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others do not limit address space")
def test_one_that_asks_for_too_much_memory_has_that_reason(obeying):
    with pytest.raises(ImageError, match=r"^not enough memory to decode it$"):
        colour(told("eat"))
    assert len(obeying._idle) == 1


def test_what_a_decoder_prints_is_no_answer(obeying):
    assert colour(told("babble")) == (200, 100, 50)


def test_the_run_goes_on(obeying, tmp_path):
    for name, data in {"1": PICTURE, "2": told("crash"), "3": PICTURE, "4": b"BM"}.items():
        (tmp_path / f"{name}.bmp").write_bytes(data)
    source = open_source(tmp_path)
    loaded = list(load(source, list_images(source), SQUASH, workers=2))
    assert [item.reason.partition(" (")[0] for item in loaded[:3]] == ["", "its decoder crashed", ""]
    assert "broken image" in loaded[3].reason
    assert [item.pixels is not None for item in loaded] == [True, False, True, False]
    assert all(item.digest for item in loaded)


def test_an_idle_child_that_is_killed_is_no_reason(pool):
    colour()
    os.kill(pool._idle[0].pid, signal.SIGKILL)
    assert wait_until(lambda: is_gone(pool._idle[0].pid))
    assert colour() == (200, 100, 50)


def test_an_interrupt_is_for_the_parent(pool):
    colour()
    (child,) = pool._idle
    os.kill(child.pid, signal.SIGINT)
    assert colour() == (200, 100, 50)
    assert pool._idle == [child]


def test_threads_have_a_child_each_up_to_the_processors(pool):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (30, 20, 3), np.uint8)) for _ in range(24)]
    data = [encode(picture, "TIFF") for picture in pictures]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda item: prepare_image(item, SQUASH, POLICY).pixels, data))
    for pixels, item in zip(found, data, strict=True):
        np.testing.assert_array_equal(pixels, prepare_here(item, SQUASH, POLICY).pixels)
    assert 1 <= len(pool._idle) <= os.cpu_count()


def test_an_error_while_it_waits_ends_the_child(pool, monkeypatch):
    colour()
    (child,) = pool._idle

    def receive(pipe, largest):
        raise KeyboardInterrupt

    monkeypatch.setattr(isolation, "_receive", receive)
    with pytest.raises(KeyboardInterrupt):
        colour()
    monkeypatch.undo()
    assert is_gone(child.pid)
    assert colour() == (200, 100, 50)


class TestWithoutAnotherProcess:
    @pytest.mark.parametrize(
        ("patch", "why"),
        [
            ((isolation, "_START", "raise SystemExit(7)"), "it ended with 7 before it was ready"),
            ((sys, "executable", "/nowhere/python"), "No such file"),
            ((sys, "frozen", True), "no Python interpreter of its own"),
        ],
    )
    def test_images_are_decoded_here_and_it_is_said_once(self, pool, monkeypatch, patch, why):
        monkeypatch.setattr(*patch, raising=False)
        with pytest.warns(RuntimeWarning, match=rf"No process can be started .*{why}"):
            assert colour() == (200, 100, 50)
        assert colour() == (200, 100, 50)  # a warning would be an error
        with pytest.raises(ImageError, match="broken image"):
            colour(b"BM")


def test_a_child_imports_little():
    script = isolation._START + "; sys.stderr.write(json.dumps(sorted(sys.modules)))"
    asked = {"preprocess": SQUASH.to_json(), "policy": POLICY, "seconds": 30}
    text, path = json.dumps(asked).encode(), json.dumps(isolation._import_path())
    request = isolation._LENGTHS.pack(len(text), len(PICTURE)) + text + PICTURE
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, path], input=request, capture_output=True, check=True
    )
    assert len(done.stdout) > 3 * 8**2
    modules = {name.partition(".")[0] for name in json.loads(done.stderr)}
    assert modules >= {"PIL", "numpy", "featx"}
    assert not modules & {
        "torch",
        "torchvision",
        "h5py",
        "sklearn",
        "scipy",
        "click",
        "rich",
        "pyarrow",
        "tkinter",
    }


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc")
def test_a_child_has_none_of_the_files_of_its_parent(pool, tmp_path):
    with (tmp_path / "store.lock").open("wb") as lock:
        os.set_inheritable(lock.fileno(), True)
        colour()
        (child,) = pool._idle
        held = [os.readlink(entry) for entry in Path(f"/proc/{child.pid}/fd").iterdir()]
    assert held
    assert not [name for name in held if "store.lock" in name]


PARENT = """
from featx.images import isolation
from featx.images.decoding import POLICY
from featx.images.preparing import prepare_image
from featx.records import Preprocess
import os, sys, threading, time
SQUASH = Preprocess("squash", 8, 8, "bilinear", (0, 0, 0), (1, 1, 1))
PICTURE = sys.stdin.buffer.read()
def child():
    prepare_image(PICTURE, SQUASH, POLICY)
    return isolation._pool()._idle[-1].pid
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
class TestTheParentsEnd:
    def start(self, script):
        process = subprocess.Popen(run(PARENT + script), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin.write(PICTURE)
        process.stdin.close()
        return process

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_a_child_does_not_outlive_its_parent(self, number):
        with self.start("print(child(), flush=True); time.sleep(60)") as parent:
            pid = int(parent.stdout.readline())
            assert not is_gone(pid)
            parent.send_signal(number)
            parent.wait()
        assert wait_until(lambda: is_gone(pid))

    def test_nor_one_that_ends_in_peace(self):
        with self.start("print(child(), flush=True)") as parent:
            pid = int(parent.stdout.readline())
            assert parent.wait() == 0
        assert wait_until(lambda: is_gone(pid))

    @pytest.mark.slow
    def test_nor_does_one_that_hangs(self):
        hanging = (
            f"isolation._START = {OBEYING!r}\n"
            "print(child(), flush=True)\n"
            "isolation.DECODE_SECONDS = 1\n"
            "prepare_image(PICTURE + b'    hang', SQUASH, POLICY)\n"
        )
        with self.start(hanging) as parent:
            pid = int(parent.stdout.readline())
            time.sleep(0.5)
            parent.kill()
            parent.wait()
        assert not is_gone(pid)
        assert wait_until(lambda: is_gone(pid))

    def test_after_a_fork_there_are_other_children(self):
        script = (
            "first = child()\n"
            "free = isolation._pool()._free\n"
            "while free.acquire(blocking=False):\n"
            "    taken = True\n"
            "if not (pid := os.fork()):\n"
            "    sys.exit(0 if child() != first else 5)\n"
            "assert os.waitpid(pid, 0)[1] == 0\n"
            "free.release()\n"
            "assert child() == first\n"
        )
        with self.start(script) as parent:
            assert parent.wait() == 0


def test_a_request_that_is_cut_off_ends_the_child():
    with isolation._pool().borrow() as child:
        child._process.stdin.write(isolation._LENGTHS.pack(10, 10) + b"{")
        child._process.stdin.close()
        assert child._process.wait(20) == 0
        child.close()
