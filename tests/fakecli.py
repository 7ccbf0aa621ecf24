"""The command line on a fake network that loads no torch, to be run in a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
from fakenetwork import Engine, OnCores
from pictures import photo, png

ROOT = Path(__file__).parents[1]
DIM = 512


class FakeNetwork(OnCores):
    """The mean of each of 512 neighbourhoods, one batch in ``pause`` seconds."""

    def __init__(self, pause):
        from featx.records import LayerInfo, Preprocess

        self.pause = pause
        self.layers = (LayerInfo("fake", "flatten", DIM),)
        self.backbone = SimpleNamespace(name="fake", provider="custom")
        self.weights = SimpleNamespace(digest="0" * 64, identity={"digest": "0" * 64})
        self.preprocess = Preprocess("squash", 32, 32, "bilinear", (0.0,) * 3, (1.0,) * 3)
        self.engine = Engine()

    def embed(self, pixels):
        time.sleep(self.pause)
        return {"fake:flatten": pixels.reshape(len(pixels), DIM, -1).mean(axis=2, dtype=np.float32) / 255}


def main(pause=0.0, flush_bytes=1):
    """Run ``featx`` with the arguments of this process."""
    from featx.cli import main as run
    from featx.store.partswriter import PartsWriter

    module = ModuleType("featx.backbones.network")
    module.load_network = lambda *_, **__: FakeNetwork(pause)
    sys.modules[module.__name__] = module
    PartsWriter.__init__.__kwdefaults__["flush_bytes"] = flush_bytes
    run()


def command(*arguments, before="", **options):
    """Give the command that runs it, after the statements ``before``."""
    given = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return [sys.executable, "-c", f"import fakecli\n{before}\nfakecli.main({given})", *map(str, arguments)]


def environment():
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def finish(*arguments, **options):
    """Run it to the end."""
    return subprocess.run(
        command(*arguments, **options), env=environment(), capture_output=True, text=True, timeout=120
    )


def make_photos(folder, count, size=(24, 20)):
    """Write a class of photos that differ."""
    target = folder / "photos" / "ants"
    target.mkdir(parents=True)
    for index in range(count):
        (target / f"{index:03}.png").write_bytes(png(photo("ants", index, size)))
    return folder / "photos"
