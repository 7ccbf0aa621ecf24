"""Where a training stands, on disk: after each epoch, so that a kill costs one at most.

Two files. ``checkpoint-N.safetensors`` holds tensors and appears whole under a name that was not there
before; ``checkpoint.json`` names it and is replaced by rename. So whatever is named is whole, whenever the
process was killed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from featx.errors import FeatxError, TrainingError
from featx.files import disk_errors, make_directories, publish, remove_temporaries

__all__ = ["STATE_FILE", "Checkpoint", "flatten", "refuse_unfinished"]

FORMAT = "featx.checkpoint/1"
STATE_FILE = "checkpoint.json"

_TENSORS = re.compile(r"checkpoint-\d+\.safetensors")

State = dict[str, Any]
Tensors = dict[str, Tensor]


class Checkpoint:
    """What was finished of a training, and where the part stands that is running.

    Parameters
    ----------
    folder : Path
        The run folder; made when something is saved.
    identity : mapping
        Plain types: everything that decides the numbers. A checkpoint of another one is refused.

    Raises
    ------
    FeatxError
        If there is an unfinished training of another identity.
    TrainingError
        If the checkpoint is damaged.

    Examples
    --------
    >>> import tempfile, torch
    >>> folder = Path(tempfile.mkdtemp())
    >>> Checkpoint(folder, {"seed": 0}).save("a", {"epoch": 1}, {"w": torch.ones(2)})
    >>> state, tensors = Checkpoint(folder, {"seed": 0}).running("a")
    >>> state, tensors["w"].tolist()
    ({'epoch': 1}, [1.0, 1.0])
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        # As JSON gives it back: a tuple is a list there.
        self._identity = json.loads(json.dumps(dict(identity)))
        self._finished: dict[str, State] = {}
        self._running: tuple[str, State] | None = None
        self._tensors: dict[str, Tensors] = {}
        self._serial = 0
        path = folder / STATE_FILE
        if path.exists():
            self._read(path)

    def finished(self, run: str) -> tuple[State, Tensors] | None:
        """Give what :meth:`finish` was told of a part of the training; None if it is not finished."""
        if run not in self._finished:
            return None
        return self._finished[run], self._tensors.get(run, {})

    def running(self, run: str) -> tuple[State, Tensors] | None:
        """Give what was saved last, if it is of this part."""
        if self._running is None or self._running[0] != run:
            return None
        return self._running[1], self._tensors.get(run, {})

    def save(self, run: str, state: State, tensors: Mapping[str, Tensor]) -> None:
        """Write where a part stands.

        Raises
        ------
        StoreError
            If the disk does not take it.
        """
        if self._running is not None and self._running[0] != run:
            self._tensors.pop(self._running[0], None)
        self._running = (run, state)
        self._tensors[run] = dict(tensors)
        self._write()

    def finish(self, run: str, state: State, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write what a part has given."""
        self._running = None
        self._finished[run] = state
        self._tensors[run] = dict(tensors or {})
        self._write()

    def remove(self) -> None:
        """Take the files away: the training is over."""
        with disk_errors(self.folder, "remove"):
            # First what says that the others count.
            (self.folder / STATE_FILE).unlink(missing_ok=True)
            for path in self._files():
                path.unlink()

    def _write(self) -> None:
        from safetensors.torch import save

        make_directories(self.folder)
        self._serial += 1
        name = f"checkpoint-{self._serial}.safetensors"
        flat = {
            f"{run}\n{key}": value.detach().cpu().contiguous().clone()
            for run, tensors in self._tensors.items()
            for key, value in tensors.items()
        }
        data = save(flat)
        with publish(self.folder / name) as file:
            file.write(data)
        state = {
            "format": FORMAT,
            "identity": self._identity,
            "finished": self._finished,
            "running": self._running,
            "tensors": name,
            "digest": hashlib.sha256(data).hexdigest(),
        }
        with publish(self.folder / STATE_FILE) as file:
            file.write(json.dumps(state, indent=1).encode("ascii"))
        with disk_errors(self.folder, "remove"):
            for path in self._files():
                if path.name != name:
                    path.unlink()

    def _files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if _TENSORS.fullmatch(path.name)]

    def _read(self, path: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        damaged = f"{path} is damaged; remove it to begin again"
        with disk_errors(path, "read"):
            text = path.read_bytes()
        try:
            state = json.loads(text)
            found, identity = state["format"], state["identity"]
            if found != FORMAT:
                raise TrainingError(
                    f"{path} has the format {found}; this featx reads {FORMAT}: use the featx that wrote it, "
                    "or remove it to begin again"
                )
            self._refuse_other(path, identity)
            tensors = self.folder / state["tensors"]
            with disk_errors(tensors, "read"):
                data = tensors.read_bytes()
            if hashlib.sha256(data).hexdigest() != state["digest"]:
                raise TrainingError(f"{tensors} is damaged; remove {path} to begin again")
            self._serial = int(Path(state["tensors"]).stem.partition("-")[2])
            self._finished = dict(state["finished"])
            self._running = tuple(state["running"]) if state["running"] else None
            for name, value in load(data).items():
                run, _, key = name.partition("\n")
                self._tensors.setdefault(run, {})[key] = value
        except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise TrainingError(f"{damaged} ({type(error).__name__}: {error})") from error
        for name in (STATE_FILE, f"checkpoint-{self._serial + 1}.safetensors"):
            remove_temporaries(self.folder / name)

    def _refuse_other(self, path: Path, found: Mapping[str, Any]) -> None:
        names = [name for name in {**self._identity, **found} if self._identity.get(name) != found.get(name)]
        if names:
            shown = "; ".join(
                f"{name}: {found.get(name)} then, {self._identity.get(name)} now" for name in names
            )
            raise FeatxError(
                f"{path} is of another training ({shown}); give the same options and images, or another "
                "folder with -o."
            )


def refuse_unfinished(folder: Path) -> None:
    """Refuse a folder whose checkpoint would be lost.

    Raises
    ------
    FeatxError
        If there is one.
    """
    if (folder / STATE_FILE).exists():
        raise FeatxError(
            f"{folder} holds a training that was not finished: go on with --resume, or remove "
            f"{STATE_FILE} to begin again."
        )


def flatten(prefix: str, values: Mapping[Any, Any]) -> Tensors:
    """Give the tensors of nested mappings under joined names, ``prefix/key/key``.

    Examples
    --------
    >>> import torch
    >>> list(flatten("a", {0: {"b": torch.ones(1)}, "c": torch.ones(1)}))
    ['a/0/b', 'a/c']
    """
    flat: Tensors = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(f"{prefix}/{key}", value)
        else:
            flat[f"{prefix}/{key}"] = value
    return flat
