"""Kills and power losses: a network without torch, a server that forks, a disk that can be cut off.

A server process has featx imported and forks a child for each job, so that a trial costs what its
work costs. The crash points are those of ALICE (Pillai et al., "All File Systems Are Not Created
Equal", OSDI 2014): every call that changes the disk is recorded, and a model of the disk says what
may be left of them when the power goes.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import json
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
import types
from pathlib import Path

import h5py
import numpy as np
from crashdisk import Recorder
from fakenetwork import Engine, OnCores
from PIL import Image

from featx.records import LayerInfo, Preprocess
from featx.store.reader import FeatureStore

SIDE, BATCH, CANARIES = 8, 4, 4
LAYERS = (LayerInfo("body", "avg", 5), LayerInfo("neck", "flatten", 3))
_REPORT = os.write  # before anybody listens to it


# Pictures, and what a store says of them


@functools.cache
def picture(key):
    """Noise, as encoded bytes: its pixels reach the network unchanged."""
    buffer = io.BytesIO()
    Image.fromarray(_noise(key)).save(buffer, "PNG")
    return buffer.getvalue()


def _noise(key):
    return np.random.default_rng(key).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def digest(key):
    return hashlib.sha256(picture(key)).hexdigest()


def _mark(pixels):
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:12]


@functools.cache
def _digests_by_mark():
    return {_mark(_noise(key)): digest(key) for key in range(100)}


def digests_seen(events):
    """Digests of the files whose pixels the networks of these events saw."""
    return {_digests_by_mark()[mark] for event in events for mark in event.get("seen", ())}


def fill(folder, names):
    """Make the folder hold exactly these pictures: name to key, a key of None is no image."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [path for path in folder.rglob("*") if path.is_file()]:
        if str(old.relative_to(folder)) not in names:
            old.unlink()
    for name, key in names.items():
        path, data = folder / name, b"no image" if key is None else picture(key)
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)
    return folder


def snapshot(path):
    """All that a reader gets from a store that verifies."""
    with FeatureStore(path) as store:
        store.verify()
        return {
            "names": store.names,
            "labels": store.y.tolist(),
            "digests": [row.tobytes().hex() for row in store.digests],
            "phashes": store.phashes.tolist(),
            "shapes": [column.tolist() for column in store.shapes],
            "sizes": store.sizes.tolist(),
            "skipped": store.skipped,
            "seed": store.meta["request"]["seed"],
            "rows": {layer.name: store.X(layer.name).tolist() for layer in store.layers},
        }


def fingerprint(found):
    """A short name of a snapshot, for reports."""
    return hashlib.sha256(repr(found).encode()).hexdigest()


def final_file(store):
    """The file that makes it a store: itself, or the index of a directory (a name without suffix)."""
    return store if store.suffix else store / "index.h5"


def parts_of(store):
    if store.suffix:
        return list(store.with_name(f"{store.name}.parts").glob("part-*.h5"))
    return list(store.glob("shards/*/part-*.h5"))


def rows_on_disk(store):
    """Digests that have a row in the store or in a finished part, read by h5py alone."""
    files = [*parts_of(store), *([store] if store.is_file() else [])]
    return set().union(*map(digests_inside, files))


def left_over(store):
    """Names of files beside the store, or in its directory, that no finished run leaves."""
    files = {path for path in store.parent.rglob("*") if not path.is_dir()} - {store}
    if not store.suffix:
        files -= {store / "index.h5", *store.glob("shards/*/index.h5"), *parts_of(store)}
    return sorted(str(path.relative_to(store.parent)) for path in files)


def digests_inside(file):
    with h5py.File(io.BytesIO(file) if isinstance(file, bytes) else file, "r") as h5:
        rows = h5["rows/digest"] if "rows" in h5 else h5["images/digest"]
        return {row.tobytes().hex() for row in rows[()]}


# A network that loads no torch


class FakeNetwork(OnCores):
    """What an extraction needs of a network; each row depends on the pixels of its image alone."""

    layers = LAYERS
    preprocess = Preprocess("crop", SIDE, SIDE, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    backbone = types.SimpleNamespace(provider="custom", name="fake")

    def __init__(self, report, seed, pause):
        key = hashlib.sha256(str(seed).encode()).hexdigest()
        self.weights = types.SimpleNamespace(digest=key, identity={"digest": key})
        self.engine = Engine()
        self._report, self._pause = report, pause
        values = np.random.default_rng(seed).normal(size=(SIDE * SIDE * 3, 8)).astype(np.float32)
        self._matrix = values / 64

    def embed(self, pixels):
        self._report("embed", seen=[_mark(image) for image in pixels])
        time.sleep(self._pause)
        # One image at a time: a product of another shape may round otherwise.
        rows = np.stack([image.reshape(-1).astype(np.float32) / 255 @ self._matrix for image in pixels])
        return {LAYERS[0].name: rows[:, :5], LAYERS[1].name: rows[:, 5:]}


def _fake_networks(report, pause):
    module = types.ModuleType("featx.backbones.network")
    module.Network = FakeNetwork
    module.load_network = lambda _backbone, *, seed=0, **_rest: FakeNetwork(report, seed, pause)
    sys.modules[module.__name__] = module


def small_parts():
    """Let every batch become a part."""
    from featx.store import StoreWriter

    owner = next(c for c in StoreWriter.__mro__ if "flush_bytes" in (c.__init__.__kwdefaults__ or {}))
    owner.__init__.__kwdefaults__["flush_bytes"] = 1


def command_line():
    """``python -m featx`` where every batch becomes a part."""
    small_parts()
    runpy.run_module("featx", run_name="__main__", alter_sys=True)


# What a child does


def _extract(job, report):
    import featx

    # One worker, so that the batches come in the order of the images.
    options = {"backbone": "fake", "store_dtype": "float16", "batch_size": BATCH, "workers": 1}
    with featx.extract(job["source"], job["store"], **options, **job.get("options", {})) as store:
        run = store.summary
        report("done", computed=run.computed, notes=run.notes, torch="torch" in sys.modules)


def _extract_reporting(job, report):
    """Extract, and say when the disk changes."""
    final = final_file(Path(job["store"]))
    lock, temporary = f"{final.name}.lock", f"{final.name}."
    state = {"locked": False}

    def tell(name, event_of):
        real = getattr(os, name)

        def call(*args, **kwargs):
            result = real(*args, **kwargs)
            if event := event_of(*map(_as_path, args[:2])):
                report(event)
            return result

        setattr(os, name, call)

    def named(_, new):
        state["locked"] |= new.name == lock
        known = {final: "store", final.with_name(lock): "lock"}
        return known.get(new, "part" if new.name.startswith("part-") else "other")

    def opened(path, flags):
        # A lock is made under a temporary name as well, but before.
        is_ours = path.name.startswith(temporary) and path.name.endswith(".tmp")
        return "assembly" if is_ours and flags & os.O_CREAT and state["locked"] else None

    tell("link", named)
    tell("replace", named)
    tell("open", opened)

    def removed(path, *_):
        state["locked"] &= path.name != lock  # it is taken and given back once before anything is loaded
        return "swept" if path.name.startswith("part-") else None

    tell("unlink", removed)
    _extract(job, report)


def _as_path(argument):
    return argument if isinstance(argument, int) else Path(os.fsdecode(argument))


def _record(job, report):
    with Recorder(Path(job["root"])) as recorder:
        _extract(job, report)
    Path(job["log"]).write_bytes(pickle.dumps((recorder.before, recorder.operations)))


def _resume_all(job, report):
    """Extract again in every folder, one after the other; nobody cuts the power here."""
    os.fsync = lambda descriptor: None
    for root in sorted(Path(job["states"]).iterdir()):
        report("state", name=root.name)
        try:
            _extract(job | {"store": str(root / job["store"])}, report)
        except Exception:  # noqa: BLE001 - told to the test, which fails
            report("failed", text=traceback.format_exc())


def _read_on(job, report):
    """Open, verify and read the store again and again, until somebody ends it."""
    while True:
        report("read", found=fingerprint(snapshot(Path(job["store"]))))


_JOBS = {"read": _read_on, "extract": _extract_reporting, "record": _record, "resume": _resume_all}


def _work(job, descriptor):
    def report(event, **details):
        line = json.dumps({"event": event, "time": time.monotonic(), **details}) + "\n"
        _REPORT(descriptor, line.encode())

    signal.alarm(job.get("alarm", 120))
    report("start")
    try:
        _fake_networks(report, job.get("pause", 0.0))
        _JOBS[job["do"]](job, report)
    except BaseException:  # noqa: BLE001 - told to the test, which fails
        report("failed", text=traceback.format_exc())
        os._exit(1)
    os._exit(0)


# The server


def serve(descriptor):
    """Fork a child for every job, until the other side closes."""
    importlib.import_module("featx.extraction")  # once, not in every child
    small_parts()
    with socket.socket(fileno=descriptor) as channel:
        while True:
            data, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 1)
            if not data:
                return
            job = json.loads(data)
            if job["do"] == "reap":
                answer = os.waitstatus_to_exitcode(os.waitpid(job["pid"], 0)[1])
            elif not (answer := os.fork()):
                channel.close()
                _work(job, descriptors[0])
            else:
                os.close(descriptors[0])
            channel.send(json.dumps(answer).encode())


class Server:
    """The server, seen from the tests; a context manager."""

    def __enter__(self):
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"import crashing; crashing.serve({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                env=child_environment(),
            )
        return self

    def __exit__(self, *_):
        self._channel.close()
        self._process.wait(timeout=30)

    def ask(self, job, descriptors=()):
        socket.send_fds(self._channel, [json.dumps(job).encode()], descriptors)
        return json.loads(self._channel.recv(1 << 16))

    def start(self, do, **job):
        return Child(self, {"do": do} | {key: _plain(value) for key, value in job.items()})

    def run(self, do, **job):
        """Run a job to its end and give its events; a failure in there fails the test."""
        with self.start(do, **job) as child:
            code = child.end()
        assert code == 0, child.events[-1].get("text", code)
        return child.events


def _plain(value):
    return str(value) if isinstance(value, Path) else value


def child_environment():
    import featx

    paths = [str(Path(featx.__file__).parent.parent), str(Path(__file__).parent)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


class Child:
    """One forked job: its events as they come, its end."""

    def __init__(self, server, job):
        read, write = os.pipe()
        self._stream = os.fdopen(read)
        self._server, self._code = server, None
        self.events = []
        try:
            self.pid = server.ask(job, [write])
        finally:
            os.close(write)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.end()
        self._stream.close()

    def next(self):
        """Wait for the next event; None when the child is gone."""
        line = self._stream.readline()
        if line.endswith("\n"):
            self.events.append(json.loads(line))
            return self.events[-1]
        return None

    def kill(self):
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)

    def end(self):
        """Wait until it is gone; gives its exit code, negative for a signal."""
        while self.next():
            pass
        if self._code is None:
            self._code = self._server.ask({"do": "reap", "pid": self.pid})
        return self._code
