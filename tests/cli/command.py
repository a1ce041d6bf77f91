"""The command in a process of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
Done = subprocess.CompletedProcess[str]


def environment(home: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "GPTC_CACHE_DIR": str(home / "cache"), **variables}


def gptc(home: Path, *arguments: str | Path, **variables: str) -> Done:
    argv = [sys.executable, "-m", "gptc", *map(str, arguments)]
    return subprocess.run(
        argv, cwd=home, env=environment(home, **variables), capture_output=True, text=True, check=False
    )


def one_object(done: Done) -> dict[str, Any]:
    """stdout is one JSON object on one line."""
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
