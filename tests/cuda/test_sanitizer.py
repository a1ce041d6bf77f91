"""A few steps of a small model under compute-sanitizer: no access out of bounds, no race, nothing read before it is
written, no barrier misused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptc.compiler import build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.runtime.artefact import Artefact
from gptc.runtime.cache import Cache
from tests.cuda.device import needs_device

TOOL = shutil.which("compute-sanitizer")
pytestmark = [pytest.mark.gpu, needs_device, pytest.mark.skipif(TOOL is None, reason="no compute-sanitizer")]
TINY = Path(__file__).parent.parent / "system" / "models" / "tiny.yaml"
FOUND = 9
"""Exit code that says that something was found."""


@pytest.fixture(scope="module", params=["f32", "bf16"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    """The artefact, its library in the cache."""
    compiled = compile_model(
        Request(TINY, Options(target="cuda", precision=request.param)), tmp_path_factory.mktemp("tiny"), Cache()
    )
    build_model(compiled, Cache())
    return compiled.artefact


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_two_steps_are_clean(built: Artefact, tool: str, tmp_path: Path) -> None:
    assert TOOL
    text = tmp_path / "input.txt"
    text.write_bytes(bytes(32 + i * i % 29 for i in range(5000)))
    trainer = [sys.executable, str(built.folder / "train.py"), "--data", str(text), "--steps", "2", "--val-every", "0"]
    command = [TOOL, "--tool", tool, "--error-exitcode", str(FOUND), *trainer, "--plain-launches"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if "Device not supported" in done.stdout:
        pytest.skip("compute-sanitizer cannot work on this machine's GPU")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "ERROR SUMMARY: 0 errors" in done.stdout or "RACECHECK SUMMARY: 0 hazards" in done.stdout
