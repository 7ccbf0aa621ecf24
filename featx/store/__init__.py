"""Embeddings in HDF5 files that are whole or not there; imports no torch."""

from __future__ import annotations

from featx.store.reader import FeatureStore
from featx.store.writer import IndexRow, StoreWriter

__all__ = ["FeatureStore", "IndexRow", "StoreWriter"]
