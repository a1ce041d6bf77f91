"""One HTML file that needs no other: no scripts, fonts or pictures from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

import jinja2

from gptc.report.course import Course
from gptc.report.plot import Line, Plot, plot
from gptc.resources import template_dir
from gptc.runtime.events import Began, Evaluation, Sample, Saved, Score, Skipped, Step, Trouble

TEMPLATE = "report/page.html.j2"
COLOURS = 6
"""In the page's style; with more runs they come again."""
SAMPLES = 5
"""The last ones are shown at once, the others can be opened."""


def render_page(courses: Sequence[Course]) -> str:
    """The page about one run, or about several side by side."""
    return _template().render(
        title=", ".join(course.name for course in courses),
        runs=[_overview(course) for course in courses],
        plots=plots(courses),
        colours=COLOURS,
        settings=_settings(courses),
        samples=[(course.name, list(reversed(course.all(Sample)))) for course in courses],
        shown=SAMPLES,
        saved=[(course.name, course.all(Saved)) for course in courses],
        skipped=[(course.name, course.all(Skipped)) for course in courses],
        troubles=[(course.name, course.all(Trouble)) for course in courses],
        several=len(courses) > 1,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_dir()), undefined=jinja2.StrictUndefined, autoescape=True,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(TEMPLATE)


def plots(courses: Sequence[Course]) -> list[Plot]:
    """Charts of whatever the runs have told."""
    train, val = [], []
    for number, course in enumerate(courses):
        alone = len(courses) == 1
        train.append(Line("training" if alone else course.name, course.points(Step, "loss"), number))
        label = "validation" if alone else f"{course.name}, validation"
        val.append(Line(label, course.points(Evaluation, "loss"), 1 if alone else number, dashed=not alone))
    named = [
        ("learning rate", "lr", False),
        ("gradient norm", "norm", True),
        ("tokens a second", "tokens_per_second", False),
    ]
    found = [plot("loss", [*train, *val])]
    found += [
        plot(title, [Line(c.name, c.points(Step, name), n) for n, c in enumerate(courses)], log)
        for title, name, log in named
    ]
    found.append(
        plot("accuracy of answers", [Line(c.name, c.points(Score, "accuracy"), n) for n, c in enumerate(courses)])
    )
    return [each for each in found if each]


def _overview(course: Course) -> dict[str, str]:
    """What to know of a run first; what it does not tell is left out."""
    losses, vals = course.points(Step, "loss"), course.points(Evaluation, "loss")
    scores, speed, mfu = course.all(Score), course.tokens_per_second, course.mfu
    began = [entry for entry in course.entries if isinstance(entry.event, Began)]
    found = {"run": course.name, "state": _state(course)}
    if began:
        starts = f", {len(began)} starts" if len(began) > 1 else ""
        found["begun"] = f"{datetime.fromtimestamp(began[0].time, UTC):%Y-%m-%d %H:%M} UTC{starts}"
    found["time"] = str(timedelta(seconds=round(course.seconds)))
    if losses:
        found["training loss"] = f"{losses[-1][1]:.4f}"
    if vals:
        step, best = min(vals, key=lambda point: point[1])
        found["validation loss"] = f"{vals[-1][1]:.4f}"
        found["best"] = f"{best:.4f} at step {step:,.0f}"
    if scores:
        found["accuracy"] = f"{scores[-1].accuracy:.4f} ({scores[-1].correct:,} of {scores[-1].total:,})"
    if speed:
        found["tokens/s, median"] = f"{speed:,.0f}"
    if mfu:
        found["MFU"] = f"{mfu:.1%}"
    if skipped := course.all(Skipped):
        found["skipped steps"] = f"{len(skipped):,}"
    if course.ended:
        found["peak memory"] = f"{course.ended.peak_memory / 2**20:,.0f} MiB"
    return found


def _state(course: Course) -> str:
    if course.ended:
        return f"done, {course.last_step:,} steps"
    wanted = dict(row[:2] for row in course.began.settings).get("steps") if course.began else None
    return f"at step {course.last_step:,}{f' of {wanted}' if wanted else ''}"


def _settings(courses: Sequence[Course]) -> list[tuple[str, list[tuple[str, str]], bool]]:
    """Rows: a name, each run's value and its origin, and whether runs differ."""
    tables = [{name: (value, origin) for name, value, origin in c.began.settings} if c.began else {} for c in courses]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [(name, [table.get(name, ("", "")) for table in tables]) for name in names]
    return [(name, cells, len({value for value, _ in cells}) > 1) for name, cells in rows]
