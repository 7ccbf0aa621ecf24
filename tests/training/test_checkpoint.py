import json

import pytest
import torch

from featx.errors import FeatxError, TrainingError
from featx.training.checkpoint import Checkpoint, refuse_unfinished

IDENTITY = {"seed": 0, "rates": (0.1, 0.2)}


@pytest.fixture
def folder(tmp_path):
    checkpoint = Checkpoint(tmp_path, IDENTITY)
    checkpoint.finish("first", {"epochs": 3}, {"p": torch.arange(3.0)})
    checkpoint.save("second", {"epoch": 1}, {"w": torch.ones(2, 2)})
    checkpoint.save("second", {"epoch": 2}, {"w": torch.zeros(2, 2)})
    return tmp_path


def test_reads_what_was_written(folder):
    checkpoint = Checkpoint(folder, IDENTITY)
    state, tensors = checkpoint.finished("first")
    assert state == {"epochs": 3}
    assert tensors["p"].equal(torch.arange(3.0))
    state, tensors = checkpoint.running("second")
    assert state == {"epoch": 2}
    assert tensors["w"].equal(torch.zeros(2, 2))
    assert checkpoint.running("first") is None
    assert checkpoint.finished("second") is None


def test_only_the_last_tensors_are_kept(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-3.safetensors", "checkpoint.json"]
    Checkpoint(folder, IDENTITY).finish("second", {})
    assert Checkpoint(folder, IDENTITY).running("second") is None
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["checkpoint-4.safetensors", "checkpoint.json"]


def test_a_kill_between_the_two_files_leaves_the_one_before(folder):
    (folder / "checkpoint-4.safetensors").write_bytes(b"half")
    assert Checkpoint(folder, IDENTITY).running("second")[0] == {"epoch": 2}


def test_another_training_is_refused(folder):
    with pytest.raises(FeatxError, match=r"another training \(seed: 0 then, 1 now\); give the same"):
        Checkpoint(folder, {**IDENTITY, "seed": 1})
    with pytest.raises(FeatxError, match=r"more: None then, 1 now"):
        Checkpoint(folder, {**IDENTITY, "more": 1})


def test_an_unfinished_one_is_not_overwritten(folder, tmp_path):
    with pytest.raises(FeatxError, match=r"not finished: go on with --resume"):
        refuse_unfinished(folder)
    Checkpoint(folder, IDENTITY).remove()
    assert list(folder.iterdir()) == []
    refuse_unfinished(folder)


@pytest.mark.parametrize("what", ["state", "tensors", "format"])
def test_damage_is_found(folder, what):
    if what == "state":
        (folder / "checkpoint.json").write_text("{")
    elif what == "format":
        state = json.loads((folder / "checkpoint.json").read_text())
        (folder / "checkpoint.json").write_text(json.dumps(state | {"format": "featx.checkpoint/9"}))
    else:
        path = folder / "checkpoint-3.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    text = "checkpoint/9; this featx reads" if what == "format" else "is damaged; remove .* to begin"
    with pytest.raises(TrainingError, match=text):
        Checkpoint(folder, IDENTITY)
