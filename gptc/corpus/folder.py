"""A new folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptc.errors import InputError, StorageError
from gptc.runtime.atomic import sync, umask


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`, which becomes `path` when the block succeeds; else nothing stays behind.

    Raises InputError where there is something at `path` already.  An OSError becomes a StorageError.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        hint = "choose another folder with --out, or remove that one"
        raise InputError.of(f"{path}: exists already, and nothing is overwritten", None, hint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:64]}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise StorageError.of(f"{path}: cannot make this folder: {error.strerror}") from None
    try:
        yield temporary
        for file in sorted(temporary.iterdir()):
            sync(file)
        sync(temporary)
        temporary.chmod(0o777 & ~umask())
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        hint = "free some space, or choose a folder that you may write to"
        raise StorageError.of(f"{path}: cannot write: {error.strerror or error}", None, hint) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
