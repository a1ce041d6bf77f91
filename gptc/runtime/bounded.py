"""Small files from elsewhere, read whole; a large one is refused before it fills the memory."""

from __future__ import annotations

import os
from pathlib import Path

from gptc.errors import InputError, StorageError


def read_bounded(path: Path, most: int, what: str) -> bytes:
    """All bytes of a file; `what` is the kind of thing that has `most` bytes at most.

    Raises InputError where there is no such file or a larger one, StorageError where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size + 1) if size <= most else b""
    except FileNotFoundError:
        raise InputError.of(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise StorageError.of(f"{path}: cannot read: {error}") from None
    if size > most or len(data) > size:  # the second: it grows, or it is no regular file and never ends
        raise InputError.of(f"{path}: larger than {most / 2**20:,.0f} MiB, no {what}")
    return data
