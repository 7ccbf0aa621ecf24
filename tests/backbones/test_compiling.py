import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from featx.backbones import compiling
from featx.backbones.compiled import Compiled
from featx.backbones.compiling import Compilation, compile_in_place, find_compiler
from featx.backbones.frozen import Pooled
from featx.backbones.pooling import Axes
from featx.records import Preprocess

PREPROCESS = Preprocess("squash", 64, 32, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
LIMITS = {"fp32": 1e-5, "bf16": 2e-2}
ROOT = str(Path(compiling.__file__).parents[2])

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")


class Net(nn.Module):
    def __init__(self, operation=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 8, 3, 1, 1)
        self.operation = operation

    def forward(self, images):
        first = self.first(images).relu()
        second = self.second(first).relu()
        return {"first": first, "second": self.operation(second) if self.operation else second}


def make(precision="fp32", operation=None):
    network = Net(operation).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    network = network.requires_grad_(False).to(memory_format=torch.channels_last)
    cuts = [("first", Axes((16, 16, 16), 0), "max"), ("second", Axes((8, 16, 16), 0), "avg")]
    return Pooled(network, cuts, PREPROCESS, precision).eval()


def some_images(count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)


def distance(got, expected):
    assert got.dtype == expected.dtype == torch.float32
    assert got.shape == expected.shape
    return ((got - expected).norm() / expected.norm()).item()


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def left_in(scratch):
    return list(scratch.glob("featx-*"))


@pytest.fixture(autouse=True)
def scratch(monkeypatch, tmp_path):
    """Where temporary folders go."""
    monkeypatch.setenv("FEATX_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(compiling.tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def child(monkeypatch):
    """Let the child do something else than compile: a program in Python."""
    original = subprocess.Popen

    def replace(program):
        def start(command, **options):
            return original([command[0], "-c", program, *command[3:]], **options)

        monkeypatch.setattr(compiling.subprocess, "Popen", start)

    return replace


class TestChild:
    """What becomes of the process, whatever it does."""

    def test_what_it_writes_is_left_and_the_scratch_folder_is_not(self, child, scratch, tmp_path):
        child("import sys; open(sys.argv[2], 'w').write('made')")
        compilation = Compilation(make(), some_images(), tmp_path / "network.so")
        assert left_in(scratch)
        compilation.wait()
        assert not compilation.is_running()
        assert compilation.result() > 0
        assert (tmp_path / "network.so").read_text() == "made"
        assert not left_in(scratch)

    def test_its_seconds_are_those_until_its_end(self, child, tmp_path):
        child("import time; time.sleep(0.3)")
        assert Compilation(make(), some_images(), tmp_path / "x.so").result() >= 0.3

    @pytest.mark.parametrize(
        ("program", "reason"),
        [
            ("print('one'); print('  the reason  '); print(); raise SystemExit(3)", "the reason"),
            ("raise ValueError('x' * 5000)", "ValueError: " + "x" * 188),
            ("raise SystemExit(3)", "its process ended with 3"),
            ("import os; os.write(2, b'\\xff\\n'); os._exit(1)", "\ufffd"),
            ("import os; os.kill(os.getpid(), 9)", "its process was ended by signal 9"),
        ],
    )
    def test_a_failure_says_why_in_one_line(self, child, scratch, tmp_path, program, reason):
        child(program)
        with pytest.raises(RuntimeError) as caught:
            Compilation(make(), some_images(), tmp_path / "x.so").result()
        assert str(caught.value) == reason
        assert not left_in(scratch)

    def test_stop_ends_it_with_what_it_started(self, child, scratch, tmp_path):
        note = tmp_path / "pids"
        child(
            "import os, subprocess, sys, time\n"
            "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
            f"open({str(note) + '.new'!r}, 'w').write(f'{{os.getpid()}} {{other.pid}}')\n"
            f"os.rename({str(note) + '.new'!r}, {str(note)!r})\n"
            "time.sleep(60)\n"
        )
        compilation = Compilation(make(), some_images(), tmp_path / "x.so")
        assert wait_until(note.exists)
        pids = [int(each) for each in note.read_text().split()]
        assert compilation.is_running()
        assert all(is_alive(pid) for pid in pids)
        compilation.stop()
        compilation.stop()
        assert not compilation.is_running()
        assert wait_until(lambda: not any(is_alive(pid) for pid in pids))
        assert not left_in(scratch)

    def test_one_that_nobody_holds_is_stopped(self, child, scratch, tmp_path):
        child("import time; time.sleep(60)")
        compilation = Compilation(make(), some_images(), tmp_path / "x.so")
        process = compilation._process
        del compilation
        assert process.poll() is not None
        assert not left_in(scratch)

    def test_what_cannot_be_exported_leaves_nothing(self, scratch, tmp_path):
        def operation(values):
            return values * 2 if values.sum() > 0 else values

        with pytest.raises(RuntimeError):
            Compilation(make(operation=operation), some_images(), tmp_path / "x.so")
        assert not left_in(scratch)

    def test_a_process_that_cannot_start_leaves_nothing(self, scratch, tmp_path, monkeypatch):
        monkeypatch.setattr(compiling.sys, "executable", str(tmp_path / "no-python"))
        with pytest.raises(OSError, match="no-python"):
            Compilation(make(), some_images(), tmp_path / "x.so")
        assert not left_in(scratch)

    def test_the_module_given_runs_on_as_it_was(self, child, tmp_path):
        child("pass")
        module = make()
        before = module(some_images())
        layout = module.network.first.weight.stride()
        Compilation(module, some_images(), tmp_path / "x.so").result()
        assert module.network.first.weight.stride() == layout
        assert type(module.network.first.weight) is nn.Parameter
        assert all(torch.equal(a, b) for a, b in zip(module(some_images()), before, strict=True))


@pytest.mark.parametrize("cxx", ["no-such-compiler", "/bin/sh", ""])
def test_the_compiler_is_cxx_or_the_systems(monkeypatch, cxx):
    monkeypatch.setenv("CXX", cxx)
    default = "clang++" if sys.platform == "darwin" else "g++"
    assert find_compiler() == shutil.which(cxx or default)


def test_in_place_keeps_what_it_compiles_in_the_cache_folder(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(torch, "compile", lambda module, **options: given.update(options) or module)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    module = make()
    assert compile_in_place(module) is module
    assert os.environ.pop("TORCHINDUCTOR_CACHE_DIR") == str(tmp_path / "cache" / "inductor")
    assert given == {"options": compiling.OPTIONS, "dynamic": False}


class TestForeignLibraries:
    @pytest.mark.parametrize("content", [b"", b"garbage", b"\x7fELF" + bytes(60)])
    def test_garbage_is_an_error(self, tmp_path, content):
        path = tmp_path / "x.so"
        path.write_bytes(content)
        with pytest.raises(OSError, match=r"x\.so"):
            Compiled(path, 1)

    def test_one_that_is_not_there(self, tmp_path):
        with pytest.raises(OSError, match=r"x\.so"):
            Compiled(tmp_path / "x.so", 1)

    def test_something_else_is_an_error(self):
        import _ctypes

        with pytest.raises(RuntimeError, match="is no compiled network"):
            Compiled(Path(_ctypes.__file__), 1)


PARENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_compiling import make, some_images
from featx.backbones.compiling import Compilation
compilation = Compilation(make(), some_images(), Path(sys.argv[2]))
print(compilation._process.pid, flush=True)
time.sleep(100)
"""


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def made(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "network.so"
    module = make(request.param)
    assert 0 < Compilation(module, some_images(), path).result() < 300
    return module, path, LIMITS[request.param]


@pytest.mark.slow
@needs_compiler
class TestForReal:
    def test_rows_are_those_of_the_eager_network(self, made):
        module, path, limit = made
        compiled = Compiled(path, 1)
        for seed in range(5):
            images = some_images(seed=seed)
            with torch.inference_mode():
                pairs = list(zip(compiled(images), module(images), strict=True))
            assert len(pairs) == 2
            assert all(distance(*pair) < limit for pair in pairs)

    def test_rows_outlive_the_network(self, made):
        module, path, limit = made
        compiled = Compiled(path, 1)
        rows = compiled(some_images())
        del compiled
        assert all(distance(*pair) < limit for pair in zip(rows, module(some_images()), strict=True))

    def test_threads_at_once_get_their_own_rows(self, made):
        module, path, limit = made
        compiled = Compiled(path, 2)  # of three, one waits
        wrong = []

        def work(seed):
            images = some_images(seed=seed)
            expected = module(images)
            for _ in range(200):
                pairs = zip(compiled(images), expected, strict=True)
                wrong.extend(seed for pair in pairs if not distance(*pair) < limit)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_the_interpreter_goes_on_while_it_runs(self, tmp_path):
        path = tmp_path / "network.so"
        images = some_images(512)
        Compilation(make(), images, path).result()
        compiled = Compiled(path, 1)
        running, seen = threading.Event(), 0
        interval = sys.getswitchinterval()
        sys.setswitchinterval(100)  # the other thread may go on only where this one lets go

        def count():
            nonlocal seen
            while not running.is_set():
                time.sleep(0)
                seen += 1

        thread = threading.Thread(target=count)
        thread.start()
        try:
            original, during = compiled._run, []

            def run(*arguments):
                before = seen
                result = original(*arguments)
                during.append(seen - before)
                return result

            compiled._run = run
            for _ in range(3):
                compiled(images)
        finally:
            sys.setswitchinterval(interval)
            running.set()
            thread.join()
        assert min(during) > 10

    def test_a_compiler_that_fails_is_an_error_of_one_line(self, scratch, tmp_path, monkeypatch):
        monkeypatch.setenv("CXX", "/bin/false")
        with pytest.raises(RuntimeError, match="/bin/false") as caught:
            Compilation(make(), some_images(), tmp_path / "x.so").result()
        assert "\n" not in str(caught.value)
        assert not left_in(scratch)
        assert not (tmp_path / "x.so").exists()

    def test_what_inductor_does_not_compile_is_refused_by_the_child(self, tmp_path):
        def operation(values):
            return torch.linalg.svdvals(values.flatten(2))[:, :, None, None]

        with pytest.raises(RuntimeError):
            Compilation(make(operation=operation), some_images(), tmp_path / "x.so").result()
        assert not (tmp_path / "x.so").exists()

    def test_it_ends_with_a_parent_that_is_killed(self, tmp_path):
        environment = os.environ | {"PYTHONPATH": ROOT, "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", PARENT, str(Path(__file__).parent), str(tmp_path / "x.so")]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as parent:
            pid = int(parent.stdout.readline())
            time.sleep(3)  # into its work
            assert is_alive(pid)
            parent.send_signal(signal.SIGKILL)
        assert wait_until(lambda: not is_alive(pid), 10)
        assert wait_until(lambda: not list(tmp_path.glob("featx-compile-*")), 5)
        assert not (tmp_path / "x.so").exists()

    def test_one_that_is_killed_is_an_error(self, scratch, tmp_path):
        compilation = Compilation(make(), some_images(), tmp_path / "x.so")
        time.sleep(1)
        compilation._process.kill()
        with pytest.raises(RuntimeError):
            compilation.result()
        assert not left_in(scratch)

    def test_stopped_it_leaves_no_process(self, scratch, tmp_path):
        compilation = Compilation(make(), some_images(), tmp_path / "x.so")
        time.sleep(4)
        pid = compilation._process.pid
        compilation.stop()
        assert not is_alive(pid)

        def group():
            return [
                each
                for each in Path("/proc").glob("[0-9]*/stat")
                if is_alive(each.parent.name) and each.read_text().rsplit(")", 1)[1].split()[2] == str(pid)
            ]

        assert wait_until(lambda: not group(), 5)
        assert not left_in(scratch)
        assert not (tmp_path / "x.so").exists()
