"""Keys for the cache, and hashes of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def content_hash(*parts: object) -> str:
    """SHA-256 of JSON values; their structure counts, so no two different lists of parts run together."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
