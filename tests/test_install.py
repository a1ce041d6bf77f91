"""The wheel carries all that the compiler needs: it works outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of the wheel, as an install lays them out."""
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def test_an_install_compiles_a_shipped_model(installed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "gptc", "compile", "gpt2-nano", "--seq", "16", "--no-build", "--json"]
    env = {**os.environ, "PYTHONPATH": str(installed), "GPTC_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / json.loads(done.stdout)["folder"]
    assert (folder / "programs/step.c").is_file()


def test_the_wheel_has_every_template_and_model(installed: Path) -> None:
    for name, pattern in (("templates", "*.j2"), ("models", "*.yaml")):
        shipped = {str(p.relative_to(ROOT / name)) for p in (ROOT / name).rglob(pattern)}
        carried = {str(p.relative_to(installed / "gptc/_data" / name)) for p in installed.rglob(pattern)}
        assert shipped
        assert carried == shipped
