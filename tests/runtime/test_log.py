"""The logs of a run: what other programs read in them, what a new start leaves of them, what damage does."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from gptc.errors import InputError, StorageError
from gptc.runtime.events import Began, Ended, Evaluation, Event, Sample, Saved, Score, Step, Trouble
from gptc.runtime.log import Log, read_log

BEGAN = Began(0, "tiny", (("lr", "0.01", "tiny.yaml:3"), ("steps", "12", "--steps")), 5.5e6, None)


def course(first: int, last: int) -> Iterable[Event]:
    """What the loop tells of steps `first` to `last`: looks every fourth, a checkpoint every sixth, told late."""
    for step in range(first, last + 1):
        if (step - 1) % 4 == 0:
            yield Evaluation(step - 1, 4.0 / step)
            yield Score(step - 1, step, 20, step / 20)
            yield Sample(step - 1, "a \udcff\n\x1b[0mb")
        yield Step(step, 5.0 / step, 1.25, 6e-4, 0.125, 8192.0)
        if step % 6 == 1 and step > 1:
            yield Saved(step - 1, Path("run/checkpoints"), 10, 0.0, 0.5)
    yield Trouble(last, "no space", lost=True)


def write(folder: Path, begin: int, events: Iterable[Event]) -> int:
    log = Log(folder)
    damaged = log.begin(begin)
    for event in events:
        log.write(event)
    return damaged


def events(folder: Path) -> list[Event]:
    found, torn = read_log(folder)
    assert not torn
    assert all(a.time <= b.time for a, b in pairwise(found))
    return [entry.event for entry in found]


def vislog(path: Path) -> dict[str, dict[int, float]]:
    """What llm.c's dev/vislog.ipynb takes from a log: a line is `s:STEP NAME:VALUE`, with two words more where the name
    is trl, and a step that comes again replaces the first."""
    streams: dict[str, dict[int, float]] = {}
    for line in path.read_text().splitlines():
        words = line.split()
        step, name = int(words[0].split(":")[1]), words[1].split(":")[0]
        assert len(words) == (4 if name == "trl" else 2)
        streams.setdefault(name, {})[step] = float(words[1].split(":")[1])
    return streams


@pytest.mark.llmc(check="K8")
def test_llmc_reads_main_log(tmp_path: Path) -> None:
    write(tmp_path, 0, course(1, 12))
    text = (tmp_path / "main.log").read_text()
    streams = vislog(tmp_path / "main.log")
    assert {name: sorted(steps) for name, steps in streams.items()} == {
        "trl": list(range(12)), "tel": [0, 4, 8], "eval": [0, 4, 8],
    }  # fmt: skip
    assert streams["trl"][3] == 1.25  # 5 / 4 before the fourth update, whose number is 3
    line = r"s:\d+ (tel:\d+\.\d{4}|eval:\d+\.\d{4}|trl:\d+\.\d{4} lr:\d+\.\d{6} norm:\d+\.\d{2})"
    assert all(re.fullmatch(line, each) for each in text.splitlines())
    assert "s:0 trl:5.0000 lr:0.000600 norm:1.25\n" in text


def test_every_event_is_read_back(tmp_path: Path) -> None:
    told = [BEGAN, *course(1, 8), Ended(8, 1.5, 1 << 30)]
    write(tmp_path, 0, told)
    assert events(tmp_path) == told
    assert all(json.loads(line)["kind"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("tail", ["", '{"kind": "st', '{"kind": "step", "step": 10}', "\0\0\0", "no JSON\n" * 3])
def test_no_step_twice_after_a_new_start(tmp_path: Path, tail: str) -> None:
    """Killed in step 10, gone on from the checkpoint of step 8: as if nothing had been."""
    write(tmp_path, 0, course(1, 9))
    for name in ("metrics.jsonl", "main.log"):
        with (tmp_path / name).open("a") as file:
            file.write(tail)
    assert write(tmp_path, 8, course(9, 12)) == max(bool(tail), tail.count("\n"))
    (whole := tmp_path / "whole").mkdir()
    write(whole, 0, course(1, 12))
    assert events(tmp_path) == events(whole)
    assert (tmp_path / "main.log").read_text() == (whole / "main.log").read_text()


def test_a_first_start_begins_empty_logs(tmp_path: Path) -> None:
    write(tmp_path, 0, course(1, 9))
    write(tmp_path, 0, course(1, 2))
    assert events(tmp_path) == list(course(1, 2))
    (fresh := tmp_path / "fresh").mkdir()
    assert write(fresh, 7, [Step(8, 1.0, 1.0, 1.0, 1.0, 1.0)]) == 0  # a checkpoint from elsewhere, without logs


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    write(tmp_path, 0, [Evaluation(0, float("inf"))])
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None
    (found,) = events(tmp_path)
    assert isinstance(found, Evaluation)
    assert math.isnan(found.loss)


def test_damage_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.jsonl: no such file"):
        read_log(tmp_path)
    write(tmp_path, 0, course(1, 3))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    last = whole.count(b"\n") + 1
    path.write_bytes(whole[:-5])
    found, torn = read_log(tmp_path)
    assert torn
    assert [entry.event for entry in found] == list(course(1, 3))[:-1]
    for line, why in (
        (b"[1]", "no JSON object"), (b"[" * 100_000, "no JSON object"), (b'{"step": 1}', "no kind or no step"),
        (b'{"kind": "step", "step": -1}', "no kind or no step"), (b'{"kind": "step", "step": 1}', "no time"),
        (b'{"kind": "step", "step": 1, "time": 1e300}', "no time"),
        (b'{"kind": "step", "step": 1, "time": 1, "loss": "x"}', "step: loss: "),
        (b'{"kind": "step", "step": ' + b"9" * 5000 + b"}", "no JSON object"),
    ):  # fmt: skip
        path.write_bytes(whole + line + b"\n")
        with pytest.raises(StorageError, match=rf"metrics\.jsonl:{last}: not an event .*{why}"):
            read_log(tmp_path)
    path.write_bytes(b'{"kind": "from a later version", "step": 1}\n')
    assert read_log(tmp_path) == ([], False)
