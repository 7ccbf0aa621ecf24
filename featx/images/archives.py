"""Images in archives: read where they lie, never extracted."""

from __future__ import annotations

from featx.images.tars import TarSource
from featx.images.zips import ZipSource

__all__ = ["TarSource", "ZipSource"]
