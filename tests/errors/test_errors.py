"""Every bad model of this folder gives exactly the message beside it.

After a deliberate change of a message, `GPTC_UPDATE_ERRORS=1 pytest tests/errors` rewrites the `.txt` files.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gptc.errors import InputError
from gptc.model import load_description

FOLDER = Path(__file__).parent
CASES = sorted(p.stem for p in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("case", CASES)
def test_message(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    with pytest.raises(InputError) as caught:
        load_description(f"{case}.yaml")
    message, expected = f"{caught.value}\n", FOLDER / f"{case}.txt"
    if os.environ.get("GPTC_UPDATE_ERRORS"):
        expected.write_text(message)
    assert message == expected.read_text()
    assert caught.value.code == 1


def test_no_expected_message_without_a_model() -> None:
    assert sorted(p.stem for p in FOLDER.glob("*.txt")) == CASES
    assert len(CASES) >= 35
