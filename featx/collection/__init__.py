"""An audit of an image collection on plain arrays; imports neither SciPy, torch nor h5py."""

from __future__ import annotations

from featx.collection.auditing import audit_collection
from featx.collection.findings import Collection

__all__ = ["Collection", "audit_collection"]
