"""`gptc report`: runs as a page that any browser shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptc.cli.flags import Json

FILE = "report.html"


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, as runs/gpt2-nano.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help=f"The file to write (default: {FILE} in the first run's folder).")
    ] = None,
    json: Json = False,
) -> None:
    """Write an HTML page about a run, or about several side by side: curves, settings, samples, checkpoints."""
    from gptc.cli.output import Output
    from gptc.report.course import read_course
    from gptc.report.page import render_page
    from gptc.runtime.atomic import replacing

    output = Output(json)
    names = [run.resolve().name for run in runs]
    courses = [
        read_course(run, name if names.count(name) == 1 else str(run)) for run, name in zip(runs, names, strict=True)
    ]
    for course in courses:
        if course.torn:
            output.line(f"{course.name}: the last line of its log is torn and left out")
    path = out or runs[0] / FILE
    text = render_page(courses)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")
    output.line(f"{path} ({len(text) / 1e3:,.0f} kB)")
    output.result(
        {"report": str(path), "runs": [{"run": c.name, "steps": c.last_step, "torn": c.torn} for c in courses]}
    )
