"""Damaged files of every format: refused with one line that names the file, or read as something that is sound."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from gptc.errors import GptcError
from gptc.runtime.cpu import CpuModel
from tests.conftest import FULL
from tests.damage.formats import FORMATS
from tests.damage.peak import Peak

COUNT = 20_000 if FULL else 100
"""Of each format; their seeds are 0, 1, 2, ..."""
SECONDS = 2.0
"""Of the processor, for any one."""
GROWTH = 64 << 10
"""KiB of memory that all mutants of a format may add."""


def wrong_with(error: GptcError, path: Path, codes: tuple[int, ...]) -> str | None:
    """What keeps this from being one line that says which file is to blame."""
    first, *others = str(error).splitlines()
    if error.code not in codes:
        return f"code {error.code}"
    if len(error.diagnostics) != 1 or not all(line.startswith("  ") for line in others) or len(first) > 2000:
        return "not one line, with notes and a hint below it"
    return None if str(path.parent) in first else "no file named"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """These files need not last."""
    monkeypatch.setattr("gptc.runtime.atomic.sync", lambda path: None)
    monkeypatch.setattr("gptc.runtime.tuning.log.disabled", True)


@pytest.mark.parametrize("name", FORMATS)
def test_mutants(name: str, trained: CpuModel, tmp_path: Path) -> None:
    file = FORMATS[name](tmp_path, trained)
    good = file.path.read_bytes()
    file.read(file.path)
    peak, refused, slowest = Peak(), 0, 0.0
    for seed in range(COUNT):
        file.path.unlink()  # a file system may wait for the disk when a file is written over
        file.path.write_bytes(file.mutant(good, random.Random(seed)))
        start = time.process_time()
        try:
            file.read(file.path)
        except GptcError as error:
            refused += 1
            if fault := wrong_with(error, file.path, file.codes):
                pytest.fail(f"seed {seed}: {fault}: {error}")
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
        slowest = max(slowest, time.process_time() - start)
    assert refused > COUNT / 4
    assert slowest < SECONDS
    assert peak.grown() < GROWTH
