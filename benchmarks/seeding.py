"""Weights for every contestant from one seed, put where each one's own loader looks.

In a process of its own, ``python seeding.py OPTIONS`` with JSON, so that the measuring process stays small.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from contestants import TIMM_NAMES

if TYPE_CHECKING:
    import torch

SEED = 0

BRANCH = 0.2
"""Factor of the last BatchNorm of a residual block."""

_CALIBRATION = 32
"""Photos from which BatchNorm takes its statistics."""

_REVISION = "0" * 40
"""Any name for the one revision in the Hugging Face cache."""


def environment_of(folder: Path) -> dict[str, str]:
    """Give the variables by which torch's and Hugging Face's loaders look into a folder, and nowhere else."""
    return {
        "TORCH_HOME": str(folder / "torch"),
        "HF_HUB_CACHE": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def seeded_network(backbone: str) -> torch.nn.Module:
    """Build a network with random weights whose activations have the scale that training gives them.

    With BatchNorm's initial statistics they shrink or grow from layer to layer, to 1e-9 in a MobileNetV2,
    where no low precision can be compared. One pass over rendered photos sets the statistics. The branches of
    residual blocks are weak at first, as they are in training (P. Goyal et al., 2017, arXiv:1706.02677, begin
    with 0): else a ResNet-50 multiplies what bf16 rounds.
    """
    import io

    import torch
    from PIL import Image
    from torchvision.models import get_model, get_model_weights
    from torchvision.models.resnet import BasicBlock, Bottleneck

    from featx.images.synthetic import synthetic_photos

    torch.manual_seed(SEED)
    network = get_model(backbone)
    transform = next(iter(get_model_weights(backbone))).transforms()
    photos = [Image.open(io.BytesIO(photo)) for photo in synthetic_photos(_CALIBRATION, seed=SEED + 1)]
    for module in network.modules():
        if isinstance(module, (Bottleneck, BasicBlock)):
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            torch.nn.init.constant_(last.weight, BRANCH)
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean of all passes, of which there is one
    with torch.no_grad():
        network.train()(torch.stack([transform(photo) for photo in photos]))
    return network


def timm_state(
    backbone: str, state: Mapping[str, torch.Tensor], network: torch.nn.Module
) -> dict[str, torch.Tensor]:
    """Give the weights the names and shapes that timm has for the same network.

    Both list the same tensors in the same order. Where timm's BatchNorm has another epsilon, the variance
    takes up the difference.
    """
    import timm
    import torch

    twin = timm.create_model(TIMM_NAMES[backbone])
    named = zip(twin.state_dict().items(), state.values(), strict=True)
    result = {name: value.reshape(like.shape).contiguous() for (name, like), value in named}
    kinds = torch.nn.modules.batchnorm._BatchNorm
    (epsilon,) = {module.eps for module in network.modules() if isinstance(module, kinds)}
    for name, module in twin.named_modules():
        if isinstance(module, kinds):
            result[f"{name}.running_var"] = result[f"{name}.running_var"] + (epsilon - module.eps)
    return result


def put_weights(backbone: str, given: str | None, folder: Path) -> Path:
    """Write the weights of one network for everyone; gives the file for featx and the plain loop."""
    import torch
    from torchvision.models import get_model, get_model_weights

    if given:
        network = get_model(backbone)
        network.load_state_dict(torch.load(given, weights_only=True))
    else:
        network = seeded_network(backbone)
    state = network.state_dict()
    file = folder / f"{backbone}.pth"
    torch.save(state, file)
    checkpoints = folder / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for weights in get_model_weights(backbone):
        # Only a download is compared with the hash in the name.
        shutil.copyfile(file, checkpoints / weights.url.rpartition("/")[2])
    try:
        import timm  # noqa: F401
        from safetensors.torch import save_file
    except ImportError:
        return file
    if backbone in TIMM_NAMES:
        place = folder / "hf" / f"models--timm--{TIMM_NAMES[backbone]}"
        (place / "snapshots" / _REVISION).mkdir(parents=True)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(_REVISION)
        save_file(timm_state(backbone, state, network), place / "snapshots" / _REVISION / "model.safetensors")
    return file


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    from featx.backbones.network import load_network

    facts: dict[str, Any] = {"weights": {}, "nodes": {}}
    if options["device"].startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("torch finds no CUDA device; choose --device cpu.")
        facts["accelerator"] = torch.cuda.get_device_name(torch.device(options["device"]))
    for backbone in options["backbones"]:
        file = put_weights(backbone, options["weights"], Path(options["folder"]))
        facts["weights"][backbone] = str(file)
        facts["nodes"][backbone] = load_network(backbone, weights="none", device="cpu").layers[0].node
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
