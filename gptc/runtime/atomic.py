"""Files that appear whole or not at all: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptc.errors import StorageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; what is written there replaces `path` when the block succeeds.

    When it fails, `path` is untouched and nothing stays behind.  An OSError becomes a StorageError.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise StorageError.of(f"{path}: cannot write: {error.strerror}", None, _hint(error)) from None
    temporary = Path(name)
    try:
        yield temporary
        sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        raise StorageError.of(f"{path}: cannot write: {error.strerror or error}", None, _hint(error)) from None
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _hint(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "create the folder first"
    return "free some space, or choose a folder that you may write to"
