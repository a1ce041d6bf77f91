"""The page about runs: what it says, that it stands alone, and that no log can break it."""

from __future__ import annotations

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gptc.cli import app
from gptc.errors import GptcError
from gptc.report.course import read_course
from gptc.report.page import plots, render_page
from gptc.report.plot import HEIGHT, WIDTH, Line, Plot, linear_ticks, log_ticks, plot, spell
from gptc.runtime.events import Began, Ended, Evaluation, Event, Sample, Saved, Score, Skipped, Step, Trouble
from gptc.runtime.log import Log

BEGAN = Began(0, "tiny", (("lr", "0.01", "tiny.yaml:3"), ("steps", "900", "--steps")), 2e6, 1e12)


def log(folder: Path, *events: Event) -> Path:
    folder.mkdir(exist_ok=True)
    told = Log(folder)
    told.begin(0)
    for event in events:
        told.write(event)
    return folder


def step(number: int) -> Step:
    return Step(number, 3 + 5 / number, 1.0 / number, 1e-3 / number, 0.5, 1e5)


def course(steps: int) -> list[Event]:
    looks = [Evaluation(0, 8.0), Score(0, 25, 100, 0.25), Sample(0, "<script>alert('&')</script>")]
    saved = [Saved(steps, Path("run/checkpoints/step-1"), 5_000_000, 0.25, 1.5), Trouble(steps, "no <space>", True)]
    skipped = Skipped(steps, 77, math.nan, 2.5, "the loss is <nan>")
    return [BEGAN, *looks, *map(step, range(1, steps)), skipped, step(steps), *saved, Evaluation(steps, 3.25)]


class Outline(HTMLParser):
    """Elements that are not closed in their order, and addresses that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "action", "data")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(*folders: Path) -> str:
    text = render_page([read_course(folder, folder.name) for folder in folders])
    outline = Outline(text)
    assert (outline.open, outline.fetched) == ([], [])
    assert "url(" not in text
    assert "@import" not in text
    return text


def test_it_says_what_happened(tmp_path: Path) -> None:
    text = page(log(tmp_path / "one", *course(900), Ended(900, 10.0, 3 << 30)))
    for words in (
        "done, 900 steps", "3.0056", "3.2500", "3.2500 at step 900", "0.2500 (25 of 100)", "100,000", "20.0%",
        "3,072 MiB", "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;", "no &lt;space&gt; (lost)", "tiny.yaml:3",
        "<td>the loss is &lt;nan&gt;</td>",
        "run/checkpoints/step-1", "prefers-color-scheme: dark",
    ):  # fmt: skip
        assert words in text
    assert re.findall("<figcaption>(.*)<output></output></figcaption>", text) == [
        "loss", "learning rate", "gradient norm", "tokens a second", "accuracy of answers",
    ]  # fmt: skip
    assert text.count("<script") == 1  # the page's own
    assert len(text) < 100_000


def test_runs_side_by_side(tmp_path: Path) -> None:
    other = [Began(0, "tiny", (("lr", "0.02", "--set"),), None, None), *course(9)[1:]]
    text = page(log(tmp_path / "one", *course(9)), log(tmp_path / "two", *other))
    assert text.count("at step 9 of 900") == 1
    assert re.search('class="differs"><th>lr</th><td>0.01</td><td>0.02</td>', text)
    assert text.count('class="curve dashed"') == 2  # a validation each
    assert "Samples of two" in text


@pytest.mark.parametrize(
    "events", [[], [BEGAN], [BEGAN, step(1)], [Evaluation(0, 1.0)], [Step(1, 0.0, 0.0, 0.0, 0, 0)]]
)
def test_little_to_say(tmp_path: Path, events: list[Event]) -> None:
    assert "at step" in page(log(tmp_path / "new", *events))


def test_the_places_of_a_curve(tmp_path: Path) -> None:
    """A falling loss falls on the page, inside the axes, from the first step to the last."""
    found = plots([read_course(log(tmp_path / "one", *course(2000)), "one")])
    for each in found:
        for curve in each.curves:
            places = [tuple(map(float, place.split())) for place in re.split("[ML]", curve.path)[1:]]
            assert len(places) <= 402
            assert all(each.left <= x <= each.right and each.top <= y <= each.bottom for x, y in places)
    loss = found[0]
    ys = [float(place.split()[1]) for place in re.split("[ML]", loss.curves[0].path)[1:]]
    assert ys == sorted(ys)
    assert loss.curves[0].band
    (first, last) = loss.curves[1].dots
    assert (first[0], last[0]) == (loss.left, loss.right)
    assert loss.curves[1].values == f"{loss.left},0,8 {loss.right},2000,3.25"
    assert isinstance(loss, Plot)
    assert (loss.width, loss.height) == (WIDTH, HEIGHT)
    assert plot("none", [Line("a", [], 0)]) is None
    assert plot("none", [Line("a", [(1.0, -1.0)], 0)], log=True) is None


def test_ticks_are_round_and_cover() -> None:
    dice = random.Random(3)
    for _ in range(2000):
        low = dice.choice((0.0, dice.uniform(-1, 1), 10 ** dice.uniform(-90, 90)))
        high = low + dice.choice((0.0, 10 ** dice.uniform(-90, 90), abs(low)))
        ticks, first, last = linear_ticks(low, high)
        assert 2 <= len(ticks) <= 9
        slack = 1e-6 * (last - first)
        assert first <= low + slack
        assert last >= high - slack
        if low > 0:
            ticks, first, last = log_ticks(low, high)
            assert 2 <= len(ticks) <= 12
            assert first <= low * 1.001
            assert last >= high * 0.999
    assert linear_ticks(0, 60)[0] == [0, 10, 20, 30, 40, 50, 60]
    assert log_ticks(0.3, 40)[0] == [0.2, 0.5, 1, 2, 5, 10, 20, 50]
    labels = {
        0.0: "0",
        0.002: "0.002",
        3e-4: "3e-4",
        25.0: "25",
        9000.0: "9000",
        12500.0: "12.5k",
        2e6: "2M",
        1e20: "1e20",
    }
    assert {value: spell(value) for value in labels} == labels


def test_no_log_breaks_the_page(tmp_path: Path) -> None:
    folder, dice = log(tmp_path / "one", *course(3), Ended(3, 1.0, 1)), random.Random(7)
    path = folder / "metrics.jsonl"
    whole = path.read_bytes()
    shown = 0
    for _ in range(300):
        data = bytearray(whole)
        numbers = [match.span() for match in re.finditer(rb"(?<=: )[\d.e-]+", data)]
        for _ in range(dice.randint(1, 3)):
            start, end = dice.choice(numbers)
            new = dice.choice((b"0", b"-7", b"1e999", b"1e-320", b"NaN", b"9" * 18, b"1e99", b"-1e300", b"null", b"7"))
            data[start:end] = new.rjust(end - start) if len(new) <= end - start else b"0".rjust(end - start)
        path.write_bytes(data)
        try:
            text = page(folder)
        except GptcError:
            continue
        shown += 1
        assert not re.search(r'[xyd1-2]="[^"]*(nan|inf)', text)
    assert shown > 100


def test_the_command(tmp_path: Path) -> None:
    run = log(tmp_path / "one", *course(9))
    log_file, out = run / "metrics.jsonl", tmp_path / "page.html"

    def report(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["report", *arguments])
        return done.exit_code, done.output

    code, said = report(str(run), "--json")
    assert code == 0
    assert json.loads(said.splitlines()[-1])["runs"] == [{"run": "one", "steps": 9, "torn": False}]
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    log_file.write_bytes(log_file.read_bytes()[:-7])
    code, said = report(str(run), "--out", str(out))
    assert (code, "the last line of its log is torn" in said, out.is_file()) == (0, True, True)
    log_file.write_bytes(b"{}\n" + log_file.read_bytes())
    code, said = report(str(run), "--out", str(tmp_path / "no.html"))
    assert (code, "metrics.jsonl:1: not an event of a run: it has no kind or no step" in said) == (5, True)
    code, said = report(str(tmp_path / "none"))
    assert (code, "none/metrics.jsonl: no such file" in said) == (1, True)
    assert not (tmp_path / "no.html").exists()
