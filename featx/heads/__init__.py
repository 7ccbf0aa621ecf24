"""scikit-learn heads on plain arrays: what there is, how to tune it, how to make it say probabilities."""

from __future__ import annotations

from featx.heads.catalog import DEFAULT_HEADS, find_head, list_heads, register_head
from featx.heads.folds import Folds, make_folds
from featx.heads.head import Head
from featx.heads.search import Tuned, tune

__all__ = [
    "DEFAULT_HEADS",
    "Folds",
    "Head",
    "Tuned",
    "find_head",
    "list_heads",
    "make_folds",
    "register_head",
    "tune",
]
