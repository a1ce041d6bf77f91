"""What training says: lines that other programs read, a live line, and what TensorBoard is given."""

from __future__ import annotations

import re
import struct
import sys
from io import StringIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gptc.cli import app, events, peak
from gptc.cli.events import Reporter, Watch
from gptc.cli.output import Output
from gptc.cli.pace import Pace, clock_time
from gptc.options import Options
from gptc.runtime.events import Began, Evaluation, Sample, Score, Step
from gptc.runtime.log import read_log
from gptc.runtime.manifest import Build

BEGAN = Began(0, "tiny", (), 2e6, 1e12)


def said(terminal: bool = False) -> tuple[Output, StringIO]:
    """An output, and where its words go."""
    output, words = Output(), StringIO()
    output.console = Console(
        soft_wrap=True, file=words, force_terminal=terminal, width=100, highlight=False, _environ={"TERM": "xterm"}
    )
    return output, words


def step(number: int, tokens_per_second: float = 1e5) -> Step:
    return Step(number, 4.0 / number, 0.51239, 3e-4, 0.0125, tokens_per_second)


@pytest.mark.llmc(check="K8")
def test_lines_are_those_of_llmc() -> None:
    output, words = said()
    report = Reporter(output, {}, 3, BEGAN)
    for event in (
        Evaluation(0, 4.25),
        step(1),
        step(2),
        Sample(2, "To be\n\x1b[2Jor"),
        Score(2, 30, 120, 0.25),
        step(3),
    ):
        report(event)
    text = words.getvalue()
    assert re.findall(r"step (\d+): train loss ([0-9.]+)", text) == [
        ("1", "4.000000"), ("2", "2.000000"), ("3", "1.333333"),
    ]  # fmt: skip
    begins = r"^step \d+: train loss \d+\.\d{6} \(took 12\.500000 ms\)"
    goes_on = r" \| norm 0\.5124 \| lr 3\.00e-04 \| 100,000 tok/s \| 20\.0% MFU"
    assert len(re.findall(begins + goes_on, text, re.MULTILINE)) == 3
    assert re.search(r"^val loss 4\.250000$", text, re.MULTILINE)
    assert re.search(r"^HellaSwag: 30/120 = 0\.250000$", text, re.MULTILINE)
    assert "generating:\n---\nTo be\n\N{REPLACEMENT CHARACTER}[2Jor\n---\n" in text


def test_a_terminal_has_a_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "REFRESH", 0.0)
    output, words = said(terminal=True)
    report = Reporter(output, {}, 1000, BEGAN)
    for number in range(1, 16):
        report(step(number))
    report(Evaluation(15, 2.5))
    lines = words.getvalue().split("\n")
    assert [int(m[1]) for line in lines if (m := re.match(r"step (\d+)", line))] == list(range(1, 12))
    shown = lines[10].split("\r\x1b[2K")
    assert [re.match(r"step \d+|val loss 2.5|", each)[0] for each in shown] == [
        "step 11", "step 12", "step 13", "step 14", "step 15", "val loss 2.5",
    ]  # fmt: skip
    assert all(len(each) < 100 for each in shown)
    assert shown[4].startswith("step 15/1000 | loss 0.2667 | 100,000 tok/s | 20.0% MFU | ETA ")


def test_pace() -> None:
    """The average, its bias corrected, is a mean with weights that fall by 0.95 a step; the first does not count."""
    now = [0.0]
    pace = Pace(100, 3e6, 1e12, lambda: now[0])
    speeds = [5.0, 100.0, 200.0, 400.0]
    for number, speed in enumerate(speeds, 11):
        now[0] += 2.0
        pace.add(step(number, 1e3 * speed))
        if number == 11:
            assert (pace.tokens_per_second, pace.seconds_left) == (5e3, None)
    weights = [0.95**age for age in (2, 1, 0)]
    mean = sum(w * s for w, s in zip(weights, speeds[1:], strict=True)) / sum(weights)
    assert pace.tokens_per_second == pytest.approx(1e3 * mean)
    assert pace.mfu == pytest.approx(3e6 * 1e3 * mean / 1e12)
    assert pace.seconds_left == pytest.approx((100 - 14) * 2.0)
    assert pace.words()[-1] == "ETA 0:02:52"
    assert clock_time(90_061.4) == "25:01:01"
    assert Pace(9, 3e6, None).mfu is None


def test_logs_go_on(tmp_path: Path) -> None:
    """A second process takes on from step 2, and says what it found damaged."""
    for begin, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        output, words = said()
        report = Watch(output, tmp_path, 4, BEGAN, tensorboard=False).open(begin)
        for number in steps:
            report(step(number))
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write("torn")
    assert "metrics.jsonl: 1 lines that cannot be read are left out" in words.getvalue()
    found, torn = read_log(tmp_path)
    assert torn
    assert [(type(e.event).__name__, e.event.step) for e in found] == [
        ("Began", 0), ("Step", 1), ("Step", 2), ("Began", 2), ("Step", 3), ("Step", 4),
    ]  # fmt: skip


def test_tensorboard_reads_it(tmp_path: Path) -> None:
    proto = pytest.importorskip("tensorboardX.proto.event_pb2", reason="no tensorboardX")
    masked_crc32c = pytest.importorskip("tensorboardX.record_writer").masked_crc32c
    report = Watch(said()[0], tmp_path, 9, BEGAN, tensorboard=True).open(6)
    for event in (step(7), Evaluation(7, 2.5), Score(7, 1, 4, 0.25), Sample(7, "so it \udcff")):
        report(event)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    data, records = path.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        record = data[12 : 12 + size]
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        assert struct.unpack("<I", data[12 + size : 16 + size])[0] == masked_crc32c(record)
        records.append(proto.Event.FromString(record))
        data = data[16 + size :]
    assert records[0].file_version == "brain.Event:2"
    assert (records[1].session_log.status, records[1].step) == (proto.SessionLog.START, 7)
    assert all(a.wall_time <= b.wall_time for a, b in pairwise(records))
    values = {value.tag: (record.step, value) for record in records for value in record.summary.value}
    assert {tag: (at, pytest.approx(value.simple_value)) for tag, (at, value) in values.items() if tag[0] in "tv"} == {
        "train/loss": (7, 4 / 7), "train/norm": (7, 0.51239), "train/lr": (7, 3e-4), "val/loss": (7, 2.5),
        "train/tokens_per_second": (7, 1e5), "val/accuracy": (7, 0.25),
    }  # fmt: skip
    assert values["sample/text_summary"][1].tensor.string_val == [b"so it ?"]


def test_tensorboard_that_is_missing_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.delitem(sys.modules, "gptc.cli.tensorboard", raising=False)
    done = CliRunner().invoke(app, ["train", "gpt2-nano", "--tensorboard"])
    assert done.exit_code == 3
    assert "--tensorboard needs tensorboardX" in done.output
    assert "pip install 'gptc[tensorboard]'" in done.output


def test_the_peak_is_measured_until_nothing_disturbs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probe = SimpleNamespace(has_bf16=False, identity="probe", threads=2)
    monkeypatch.setenv("GPTC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(peak, "build_probe", lambda options, build: probe)

    def measure(gflops: float | None, disturbance: str | None) -> float | None:
        probe.gflops = lambda dtype: gflops
        monkeypatch.setattr(peak, "warning", lambda cores: disturbance)
        return peak.peak_flops(Options(precision="bf16"), Build.model_construct())

    assert measure(100.0, "busy") == 100e9
    assert measure(80.0, "busy") == 100e9
    assert measure(150.0, None) == 150e9
    assert measure(None, None) == 150e9  # from the file
    (file,) = (tmp_path / "peaks").iterdir()
    file.write_text('{"flops": "many"}')
    assert measure(90.0, None) == 90e9
