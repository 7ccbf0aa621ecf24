import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from featx import files
from featx.backbones import remembered
from featx.backbones.frozen import Pooled
from featx.backbones.pooling import Axes
from featx.backbones.remembered import Remembered, Way, cache_directory
from featx.records import Preprocess

FIGURES = {Way(False, 8): 0.02, Way(True, 8): 0.01}


class Net(nn.Module):
    def __init__(self, width=4, power=1):
        super().__init__()
        self.conv, self.power = nn.Conv2d(3, width, 3), power
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("unkept", torch.ones(2), persistent=False)

    def forward(self, images):
        output = self.conv(images) * self.kept[0] + self.unkept[0]
        return {"node": output.relu() if self.power == 1 else output.relu().tanh()}


def make(width=4, power=1, image_size=8, precision="fp32", pooling="avg", mean=0.5, seed=0):
    torch.manual_seed(seed)
    module = fx.symbolic_trace(Net(width, power).eval())
    preprocess = Preprocess("squash", 64, image_size, "bilinear", (mean, 0.4, 0.3), (0.2, 0.3, 0.4))
    module = module.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    return Pooled(module, [("node", Axes((width, 6, 6), 0), pooling)], preprocess, precision).eval()


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(module=None):
    memory = Remembered(module or make())
    memory.seconds, memory.compiling, memory.failure = dict(FIGURES), 3.0, "x"
    memory.save()
    return memory


def nothing_is_known(memory):
    return (memory.seconds, memory.compiling, memory.failure) == ({}, 0.0, "")


class TestFolder:
    def test_where_it_is(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_directory() == tmp_path / "cache"
        for unset in ("", None):
            monkeypatch.setenv("FEATX_CACHE_DIR", "") if unset == "" else monkeypatch.delenv(
                "FEATX_CACHE_DIR"
            )
            assert cache_directory() == tmp_path / "xdg" / "featx"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert cache_directory() == tmp_path / "home" / ".cache" / "featx"

    def test_nothing_is_written_before_there_is_anything(self, folder):
        memory = Remembered(make())
        memory.library(8)
        assert not memory.has_library(8)
        assert not folder.exists()


class TestWhatFiguresBelongTo:
    def test_they_are_read_again_whatever_the_weights(self):
        save()
        memory = Remembered(make(seed=1))
        assert (memory.seconds, memory.compiling, memory.failure) == (FIGURES, 3.0, "x")
        assert all(isinstance(way, Way) for way in memory.seconds)

    @pytest.mark.parametrize(
        "change", [{"width": 5}, {"power": 2}, {"image_size": 16}, {"precision": "bf16"}]
    )
    def test_another_network_shape_or_precision_is_another_kind(self, change):
        save()
        assert nothing_is_known(Remembered(make(**change)))

    def test_another_torch_or_processor_is_another_kind(self, monkeypatch):
        save()
        with monkeypatch.context() as patch:
            patch.setattr(remembered.torch, "__version__", "99.0")
            assert nothing_is_known(Remembered(make()))
        with monkeypatch.context() as patch:
            patch.setattr(remembered, "_processor_flags", lambda: "flags: none")
            assert nothing_is_known(Remembered(make()))
        assert not nothing_is_known(Remembered(make()))

    def test_instructions_are_told_apart(self):
        assert remembered._processor_flags().strip()


class TestLibraryNames:
    def test_the_same_network_has_the_same_one(self):
        assert Remembered(make()).library(8) == Remembered(make()).library(8)

    @pytest.mark.parametrize("change", [{"pooling": "max"}, {"mean": 0.25}, {"image_size": 16}, {"seed": 1}])
    def test_cut_normalisation_and_size_of_images_are_in_them(self, change):
        assert Remembered(make(**change)).library(8) != Remembered(make()).library(8)

    def test_every_number_is_in_them(self):
        module = make()
        names = {Remembered(module).library(8)}
        tensors = [*module.parameters(), *module.buffers()]
        assert len(tensors) == 6
        for count, tensor in enumerate(tensors, 2):
            with torch.no_grad():
                tensor.view(-1)[-1] += 1e-6 if tensor.numel() > 3 else 1
            names.add(Remembered(module).library(8))
            assert len(names) == count

    def test_the_batch_size_is_in_them(self):
        memory = Remembered(make())
        assert memory.library(8) != memory.library(16)

    def test_layout_in_memory_is_not(self):
        module = make()
        name = Remembered(module).library(8)
        assert Remembered(module.to(memory_format=torch.channels_last)).library(8) == name

    def test_one_is_found_only_by_its_own_weights_and_size(self):
        memory = Remembered(make())
        memory.prepare(8).write_bytes(b"")
        assert memory.has_library(8)
        assert not memory.has_library(16)
        assert not Remembered(make(seed=1)).has_library(8)


class TestDamage:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\xff\xfe",
            b"{",
            b"[]",
            b"3",
            b"null",
            b"{}",
            b'{"seconds": 3, "compiling": 0, "failure": ""}',
            b'{"seconds": [[true, 8]], "compiling": 0, "failure": ""}',
            b'{"seconds": [[true, "x", 1]], "compiling": 0, "failure": ""}',
            b'{"seconds": [[true, Infinity, 1]], "compiling": 0, "failure": ""}',
            b'{"seconds": [[true, 8, NaN]], "compiling": 1, "failure": "x"}',
            b'{"seconds": [[true, 8, 0]], "compiling": 1, "failure": "x"}',
            b'{"seconds": [[true, 8, -1]], "compiling": 1, "failure": "x"}',
            b'{"seconds": [], "compiling": Infinity, "failure": "x"}',
            b'{"seconds": [], "compiling": -1, "failure": "x"}',
            b'{"seconds": [[true, 8, 1]], "failure": "x"}',
        ],
    )
    def test_it_is_as_if_nothing_were_known(self, folder, content):
        save()
        (path,) = folder.rglob("speeds.json")
        path.write_bytes(content)
        memory = Remembered(make())
        assert nothing_is_known(memory)
        memory.save()
        json.loads(path.read_bytes())

    def test_a_file_in_place_of_the_folder(self, folder):
        folder.write_text("")
        memory = save()
        assert nothing_is_known(Remembered(make()))
        assert not memory.has_library(8)
        with pytest.raises(OSError, match=r"Not a directory|Permission"):
            memory.prepare(8)

    def test_a_folder_in_place_of_the_file(self, folder):
        save()
        (path,) = folder.rglob("speeds.json")
        path.unlink()
        path.mkdir()
        assert nothing_is_known(Remembered(make()))
        save()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_read_only_folder(self, folder):
        folder.mkdir(mode=0o500)
        memory = save()
        with pytest.raises(OSError, match=r"Not a directory|Permission"):
            memory.prepare(8)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
    def test_a_full_or_read_only_disk(self, folder, monkeypatch, number):
        def fail(*_, **__):
            raise OSError(number, os.strerror(number))

        memory = Remembered(make())
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", fail)
            save()
            patch.setattr(files.os, "open", fail)
            save()
        assert not list(folder.rglob("speeds.json*"))
        monkeypatch.setattr(Path, "mkdir", fail)
        memory.save()
        with pytest.raises(OSError, match=os.strerror(number)):
            memory.prepare(8)
        memory.touch(Path("/nowhere/x.so"))


class TestTrimming:
    def fill(self, folder, count=5, size=100):
        paths = []
        for number in range(count):
            path = folder / f"networks-{remembered.VERSION}" / f"kind{number % 2}" / f"{number}-8.so"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(size))
            os.utime(path, (1000 + number, 1000 + number))
            paths.append(path)
        return paths

    def test_those_unused_for_longest_go_first(self, folder, monkeypatch):
        monkeypatch.setattr(remembered, "LIMIT_BYTES", 300)
        paths = self.fill(folder)
        memory = Remembered(make())
        memory.touch(paths[0])
        memory.prepare(8)
        assert [path.exists() for path in paths] == [True, False, False, True, True]

    def test_within_the_limit_all_stay_and_nothing_else_is_touched(self, folder, monkeypatch):
        monkeypatch.setattr(remembered, "LIMIT_BYTES", 500)
        paths = self.fill(folder)
        other = paths[0].with_name("speeds.json")
        other.write_bytes(bytes(10_000))
        Remembered(make()).prepare(8)
        assert all(path.exists() for path in (*paths, other))
        monkeypatch.setattr(remembered, "LIMIT_BYTES", 0)
        Remembered(make()).prepare(8)
        assert not any(path.exists() for path in paths)
        assert other.exists()

    def test_one_that_cannot_be_removed_is_passed_over(self, folder, monkeypatch):
        monkeypatch.setattr(remembered, "LIMIT_BYTES", 300)
        paths = self.fill(folder)
        original = Path.unlink

        def unlink(path, **options):
            if path == paths[0]:
                raise PermissionError(errno.EACCES, "no")
            original(path, **options)

        monkeypatch.setattr(Path, "unlink", unlink)
        Remembered(make()).prepare(8)
        assert [path.exists() for path in paths] == [True, False, False, True, True]


SAVING = """
import sys
from torch import nn
from featx.backbones.remembered import Remembered, Way
memory = Remembered(nn.Linear(2, 2))
sys.stdin.readline()
for number in range(60):
    memory.seconds = {Way(True, size): 1.0 + number for size in range(1, 1 + int(sys.argv[1]))}
    memory.save()
"""


def test_two_processes_that_save_at_once_leave_one_whole_file(folder):
    root = str(Path(remembered.__file__).parents[2])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SAVING, size],
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": root},
            text=True,
        )
        for size in ("3", "300")
    ]
    module = nn.Linear(2, 2)
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    found = set()
    while any(process.poll() is None for process in processes):
        found.add(len(Remembered(module).seconds))
    for process in processes:
        process.stdin.close()
        assert process.returncode == 0
    assert found <= {0, 3, 300}
    assert len(Remembered(module).seconds) in (3, 300)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["speeds.json"]
