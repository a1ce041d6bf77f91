"""Put an emitted artefact on the disk: a folder that is there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gptc.codegen.artefact import Emitted
from gptc.errors import GptcError, StorageError


def write_artefact(emitted: Emitted, parent: Path) -> Path:
    """Write the folder `parent/<name>`, whole or not at all, and return it.

    A folder that already holds these files is left as it is, with whatever `make` has added to it.
    StorageError when it cannot be written; then nothing stays behind.
    """
    folder = parent / emitted.name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if _holds(folder, emitted.files):
            return folder
        temporary = Path(tempfile.mkdtemp(prefix=f".{emitted.name}.", dir=parent))
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        for name, text in emitted.files.items():
            path = temporary / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        temporary.chmod(0o755)
        _replace(temporary, folder)
    except OSError as error:
        raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _holds(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether every one of `files` is in the folder with exactly this text."""
    try:
        return all((folder / name).read_bytes() == text.encode() for name, text in files.items())
    except OSError:
        return False


def _replace(temporary: Path, folder: Path) -> None:
    """Put a complete folder in its place; one that is already there moves aside first, then goes."""
    if folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
        folder.rename(aside / "old")
        temporary.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        temporary.rename(folder)


def _unwritable(folder: Path, error: OSError) -> GptcError:
    message = f"{folder}: cannot write: {error.strerror or error}"
    return StorageError.of(message, None, "free some space, or choose another folder with --out")
