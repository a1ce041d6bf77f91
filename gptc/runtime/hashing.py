"""Keys for the cache."""

from __future__ import annotations

import hashlib
import json


def content_hash(*parts: object) -> str:
    """SHA-256 of JSON values; their structure counts, so no two different lists of parts run together."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
