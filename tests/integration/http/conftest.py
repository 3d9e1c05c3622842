"""One API for each test module that only reads it or keeps to Automations of its own; a fresh one where it matters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.http.api import Api


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """A fresh API on a fresh store."""
    running = Api(tmp_path)
    try:
        yield running
    finally:
        running.close()
