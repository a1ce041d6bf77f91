"""What was compiled before: the cache remembers which folder came out, for all that decides it.

That is the model's text, the options, gptc's own sources and the instruction set.  The folder itself stays where it was
asked for, and is checked byte for byte before it is trusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gptc.errors import GptcError
from gptc.request import Request
from gptc.resources import template_dir
from gptc.runtime.artefact import Artefact, open_artefact
from gptc.runtime.cache import Cache
from gptc.runtime.hashing import content_hash
from gptc.runtime.tuning import Tuning

RECORD = "record.json"


def key_of(request: Request, tuning: Tuning) -> str:
    """All that decides what comes out."""
    from gptc.codegen.target import target_for

    try:
        text = hashlib.sha256(request.path.read_bytes()).hexdigest()
    except OSError:
        text = ""  # reading it again will tell why
    sizes = [request.batch, request.seq, request.micro_steps, request.total_batch, request.ranks]
    target = asdict(target_for(request.options))
    return content_hash(
        "compile",
        str(request.path),
        text,
        request.overrides,
        sizes,
        request.options.to_json(),
        target,
        _fingerprint(),
        [tuning.choices, tuning.remark],
    )


def _fingerprint() -> str:
    """A hash of gptc's own sources and templates."""
    package = Path(__file__).parent
    paths = sorted([*package.rglob("*.py"), *template_dir().rglob("*.j2")])
    return content_hash([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])


def recall(cache: Cache, key: str, out: Path) -> tuple[Artefact, dict[str, Any]] | None:
    """The artefact and the summary that the same request gave before, if its folder is still there and whole."""
    entry = cache.get(key)
    if entry is None:
        return None
    summary = json.loads((entry / RECORD).read_text())
    try:
        return open_artefact(out / summary["folder"]), summary
    except GptcError:
        return None


def remember(cache: Cache, key: str, summary: Mapping[str, Any]) -> None:
    """Keep the summary of what has been compiled."""
    cache.put(key, lambda folder: _store(folder, summary))


def _store(folder: Path, summary: Mapping[str, Any]) -> None:
    (folder / RECORD).write_text(json.dumps(summary))
