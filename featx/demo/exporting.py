"""Write a trained network as the small file that the package carries: safetensors in float16."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from featx.backbones.providers.tiny import INPUT_SIZE, TinyNet, tiny_net
from featx.errors import WeightsError
from featx.files import publish

__all__ = ["PREPROCESS", "export", "to_half"]

PREPROCESS: Mapping[str, object] = {
    "resize": "squash",
    "resize_size": INPUT_SIZE,
    "image_size": INPUT_SIZE,
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
"""How images must be prepared for the network; stored in the file's metadata under ``preprocess``."""

_TOLERANCE = 0.01


def to_half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round the floating-point tensors of a state to float16.

    Parameters
    ----------
    state : mapping of str to Tensor
        Such as ``network.state_dict()``.

    Returns
    -------
    dict of str to Tensor
        Contiguous copies; integers stay as they are.

    Raises
    ------
    WeightsError
        If a value overflows, or if a running variance loses more than 1 % because it is below
        the normal range of float16.

    Examples
    --------
    >>> to_half({"weight": torch.tensor([0.1, 2.0])})["weight"].dtype
    torch.float16
    """
    rounded: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            rounded[name] = tensor.clone().contiguous()
            continue
        half = tensor.detach().to(torch.float16)
        error = (half.float() - tensor.float()).abs()
        if not bool(torch.isfinite(half).all()):
            raise WeightsError(f"The tensor {name} overflows float16: train with a smaller learning rate.")
        if name.endswith("running_var") and bool((error > _TOLERANCE * tensor.abs()).any()):
            raise WeightsError(f"The tensor {name} is too small for float16: some channel is constant.")
        rounded[name] = half.contiguous()
    return rounded


def export(
    network: TinyNet,
    path: Path,
    *,
    categories: Sequence[str],
    seed: int,
    description: str,
    check: Tensor,
) -> float:
    """Write the weights file, after a check that rounding hardly changes the embeddings.

    Parameters
    ----------
    network : TinyNet
        In evaluation mode.
    path : Path
        The file; its folder must exist. It is replaced whole.
    categories : sequence of str
        Names of the classifier's outputs.
    seed : int
        Seed of the training.
    description : str
        One sentence for the metadata.
    check : Tensor of float32, shape (n, 3, 64, 64)
        Normalised images on which the rounded network is compared.

    Returns
    -------
    float
        Relative L2 difference of the embeddings, worst image.

    Raises
    ------
    WeightsError
        If the rounded weights change an embedding by more than 1 %.
    """
    rounded = to_half(network.state_dict())
    again = tiny_net(len(categories))
    again.load_state_dict(rounded)
    before, after = _embed(network, check), _embed(again.eval(), check)
    difference = float(((after - before).norm(dim=1) / before.norm(dim=1)).max())
    if difference > _TOLERANCE:
        raise WeightsError(
            f"Rounding to float16 changes an embedding by {difference:.3f}, "
            f"expected at most {_TOLERANCE}: train longer."
        )
    metadata = {
        "preprocess": json.dumps(PREPROCESS),
        "num_classes": str(len(categories)),
        "categories": json.dumps(list(categories)),
        "seed": str(seed),
        "description": description,
        "licence": "Apache-2.0",
    }
    # Not save_file: it makes the file readable by its owner only, and the file goes into the package.
    with publish(path) as file:
        file.write(_in_order(save(rounded, metadata=metadata)))
    return difference


def _in_order(payload: bytes) -> bytes:
    """Sort the header of a safetensors file, whose metadata otherwise comes in another order in each process.

    Source: https://huggingface.co/docs/safetensors/index#format; the offsets count from the header's end.
    """
    length = int.from_bytes(payload[:8], "little")
    header = json.dumps(json.loads(payload[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + payload[8 + length :]


def _embed(network: TinyNet, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        x = network.layer1(network.stem(inputs))
        x = network.layer4(network.layer3(network.layer2(x)))
        return x.mean(dim=(2, 3))  # type: ignore[no-any-return]
