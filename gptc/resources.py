"""Where the files that are no Python live: in a checkout beside the package, in an install inside it."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def template_dir() -> Path:
    """The folder `templates/`."""
    return _find("templates")


def models_dir() -> Path:
    """The folder `models/`: the descriptions that come with gptc."""
    return _find("models")


def _find(name: str) -> Path:
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
