"""Tables: what a narrow terminal and a pipe get."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gptc.cli.output import Output

COLUMNS = ("setting", "value", ">size")
ROWS = (("skip_loss_outliers", "a sentence of some length, " * 4 + "pip install 'gptc[cuda]'", "1,024"), ("x", "", ""))


@pytest.mark.parametrize("terminal", [True, False])
def test_names_and_numbers_stay_whole(terminal: bool) -> None:
    output = Output()
    output.console = Console(file=io.StringIO(), force_terminal=terminal, width=60, color_system=None)
    output.table("settings", COLUMNS, ROWS)
    lines = output.console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.startswith("skip_loss_outliers  a sentence") and line.rstrip().endswith("1,024") for line in lines)
    assert "gptc[cuda]" in " ".join(lines)
    assert terminal or not any(line.endswith(" ") for line in lines)
