"""Where and how exactly a network computes: the device and the dtype."""

from __future__ import annotations

import os
from typing import Literal

import torch

from featx.errors import BackboneError
from featx.records import Precision
from featx.sharding import local_rank

__all__ = ["DTYPES", "resolve_device", "resolve_precision"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def resolve_device(device: str = "auto") -> torch.device:
    """Choose a device.

    Parameters
    ----------
    device : str, default="auto"
        ``"auto"`` is CUDA if there is one, else mps, else the CPU. Of several GPUs, each process that
        torchrun or Slurm started on a machine takes its own.

    Raises
    ------
    BackboneError
        If there is no such device here.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if device == "auto":
        if torch.cuda.is_available():
            rank = local_rank(os.environ)
            return torch.device("cuda" if rank is None else f"cuda:{rank % torch.cuda.device_count()}")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise BackboneError(
            f"Unknown device {device!r}. There is auto, cpu, cuda, cuda:N and mps."
        ) from error
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if chosen.type not in present:
        raise BackboneError(f"Cannot use the device {device!r}. There is auto, cpu, cuda, cuda:N and mps.")
    if (chosen.index or 0) >= present[chosen.type]:
        found = (
            f"there are {present[chosen.type]} of type {chosen.type!r}"
            if present[chosen.type]
            else "there is none"
        )
        raise BackboneError(f"The device {device!r} is not here: {found}. Use `--device auto`.")
    return chosen


def resolve_precision(precision: Precision | Literal["auto"], device: torch.device) -> Precision:
    """Choose a dtype: bfloat16 where the hardware has matrix units for it, else float32.

    Parameters
    ----------
    precision : {"auto", "fp32", "bf16", "fp16"}
    device : torch.device

    Raises
    ------
    BackboneError
        If the precision has another name.

    Examples
    --------
    >>> resolve_precision("fp32", torch.device("cpu"))
    'fp32'
    """
    if precision == "auto":
        return "bf16" if _has_bf16_units(device) else "fp32"
    if precision not in DTYPES:
        raise BackboneError(f"Unknown precision {precision!r}. There is auto, {', '.join(DTYPES)}.")
    return precision


def _has_bf16_units(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )
