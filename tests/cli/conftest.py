"""A folder to work in, whose cache serves all tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a text to learn from."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "text.txt").write_bytes(bytes(range(50)) * 40)
    return folder
