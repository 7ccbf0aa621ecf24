"""featx: frozen CNN embeddings, scikit-learn heads, honest numbers.

The public names are loaded when they are first used, so that ``import featx`` imports neither torch
nor scikit-learn.

Examples
--------
>>> import featx
>>> "featx-tiny" in featx.list_backbones()
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

__all__ = [
    "FeatureExtractor",
    "FeatureStore",
    "FeatxError",
    "Model",
    "Results",
    "classify",
    "extract",
    "finetune",
    "fit",
    "list_backbones",
    "list_heads",
    "list_nodes",
    "measure_throughput",
    "tune",
    "write_report",
]

_HOMES = {
    "FeatureExtractor": "featx.transformer",
    "FeatureStore": "featx.store.reader",
    "FeatxError": "featx.errors",
    "Model": "featx.model",
    "Results": "featx.results",
    "classify": "featx.prediction",
    "extract": "featx.extraction",
    "finetune": "featx.finetuning",
    "fit": "featx.experiment",
    "list_backbones": "featx.backbones.catalog",
    "list_heads": "featx.heads.catalog",
    "list_nodes": "featx.backbones",
    "measure_throughput": "featx.throughput",
    "tune": "featx.heads.search",
    "write_report": "featx.report",
}

if TYPE_CHECKING:
    from featx.backbones.catalog import list_backbones
    from featx.backbones.network import list_nodes
    from featx.errors import FeatxError
    from featx.experiment import fit
    from featx.extraction import extract
    from featx.finetuning import finetune
    from featx.heads.catalog import list_heads
    from featx.heads.search import tune
    from featx.model import Model
    from featx.prediction import classify
    from featx.report import write_report
    from featx.results import Results
    from featx.store.reader import FeatureStore
    from featx.throughput import measure_throughput
    from featx.transformer import FeatureExtractor


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'featx' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
