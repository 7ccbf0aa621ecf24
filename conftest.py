"""For the tests and for the examples in docstrings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that was measured or compiled before counts; nothing is left. Child processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
