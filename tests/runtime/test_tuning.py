"""What was tuned is kept per machine, and whatever happens to the file costs speed only."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from gptc.runtime import tuning
from gptc.runtime.tuning import Tuning, load_tuning, save_tuning

ONE, TWO = {"a": {"MR": 6, "NR": 32}}, {"b": {"MR": 4}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_tuning(tmp_path, "AVX2", ONE)


def test_what_was_found_comes_back(tmp_path: Path) -> None:
    assert load_tuning(tmp_path, "AVX2") == Tuning()
    save_tuning(tmp_path, "AVX2", ONE)
    save_tuning(tmp_path, "AVX2", TWO)
    assert load_tuning(tmp_path, "AVX2") == Tuning(ONE | TWO)
    save_tuning(tmp_path, "AVX2", {"a": {"MR": 8}})
    assert load_tuning(tmp_path, "AVX2").choices["a"] == {"MR": 8}


def test_other_machines(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one with other instructions or fewer cores.  A file that was renamed to fit is known by what is in it."""
    assert load_tuning(tmp_path, "AVX-512") == Tuning(remark="tuned for other machines, not for this one")
    monkeypatch.setattr(tuning, "cores", lambda: 96)
    assert load_tuning(tmp_path, "AVX2").remark == "tuned for other machines, not for this one"
    theirs = tuning._path(tmp_path, "AVX2")
    file.rename(theirs)
    found = load_tuning(tmp_path, "AVX2")
    assert (found.choices, "was tuned on another machine" in found.remark) == ({}, True)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"format": 1}', b'{"format": "1"}', b"null", b"[" * 100000]
)
def test_damaged_files(tmp_path: Path, file: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert load_tuning(tmp_path, "AVX2") == Tuning()
    assert [r.getMessage() for r in caplog.records] == [
        f"{file}: damaged; kernels keep their defaults until gptc tune writes it anew"
    ]
    caplog.clear()
    save_tuning(tmp_path, "AVX2", TWO)
    assert load_tuning(tmp_path, "AVX2") == Tuning(TWO)


def test_every_way_to_cut_it_short(tmp_path: Path, file: Path) -> None:
    whole = file.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        file.write_bytes(whole[:length])
        assert load_tuning(tmp_path, "AVX2") == Tuning()


def test_other_formats(tmp_path: Path, file: Path) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2}))
    assert load_tuning(tmp_path, "AVX2") == Tuning(remark="tuned by another version of gptc (format 2, not 1)")
