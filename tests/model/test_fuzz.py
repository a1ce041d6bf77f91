"""Damaged model files give a graph or a GptcError with a place: no traceback, no hang, no runaway memory."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gptc.errors import InputError
from gptc.model import build_graph, load_description
from tests.conftest import FULL
from tests.damage.peak import Peak
from tests.model.mutate import mutants

MODELS = Path(__file__).parents[2] / "models"
LIMIT = 5.0
"""Seconds of the processor that one file may take; a healthy one takes 0.02."""
GROWTH = 64 << 10
"""KiB of memory that all mutants of a model may add."""
TIMES = 40 if FULL else 1


@pytest.mark.parametrize(("model", "seed", "count"), [("gpt2-nano", 1, 350), ("gpt2-124m", 2, 150)])
def test_mutants(model: str, seed: int, count: int, tmp_path: Path) -> None:
    text = (MODELS / f"{model}.yaml").read_text()
    path = tmp_path / "mutant.yaml"
    outcomes = {True: 0, False: 0}
    unplaced: list[str] = []
    count, peak = TIMES * count, Peak()
    for mutant in mutants(text, seed, count):
        path.write_text(mutant)
        start = time.process_time()
        try:
            build_graph(load_description(path), 1, 4)
            outcomes[True] += 1
        except InputError as error:
            unplaced += [d.message for d in error.diagnostics if d.span is None]
            outcomes[False] += 1
        assert time.process_time() - start < LIMIT, mutant
    assert not [m for m in unplaced if "stopped after" not in m]
    assert outcomes[True] > 0
    assert outcomes[False] > count / 2
    assert peak.grown() < GROWTH
