"""Where what is no Python lives: gptc's own files, in a checkout beside the package and in an install inside it; and
NVIDIA's compiler."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

_PACKAGE = Path(__file__).parent


def template_dir() -> Path:
    """The folder `templates/`."""
    return _find("templates")


def models_dir() -> Path:
    """The folder `models/`: the descriptions that come with gptc."""
    return _find("models")


def find_nvcc(command: str) -> str | None:
    """The CUDA compiler called `command`: on PATH; `nvcc` also in Python packages and where toolkits install it."""
    found = shutil.which(command)
    if found or command != "nvcc":
        return found
    try:
        finder = importlib.import_module("cuda.pathfinder")
    except ImportError:
        return None
    path: str | None = finder.find_nvidia_binary_utility("nvcc")
    return path


def _find(name: str) -> Path:
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
