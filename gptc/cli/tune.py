"""`gptc tune`: find the blocking of kernels that suits this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from gptc.cli.flags import Job, Json, Threads, compiles


@compiles("train")
def tune(
    job: Job,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="About how long to search.")] = 60.0,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Search for the fastest kernels of a training step on this machine; later compilations use them."""
    from dataclasses import asdict

    from gptc.cli.output import Output, Ticker, counted
    from gptc.tune import tune as search

    output = Output(json)
    with Ticker(output, "round") as ticker:
        report = search(job.request, seconds, threads, progress=ticker)
    rows = [
        (f.kernel, ", ".join(f"{name} {value}" for name, value in f.point.items()),
         f"{f.default_ms:,.3f}", f"{f.ms:,.3f}", f"{1 - f.ms / f.default_ms:.1%}")
        for f in report.findings
    ]  # fmt: skip
    if rows:
        output.table("faster than the default", ("kernel", "values", ">default ms", ">ms", ">saved"), rows)
    left = f"; no time for {report.left} more" if report.left else ""
    rounds = f"{counted(report.rounds, 'round')}{left}"
    output.line(f"{rounds}: a step takes {report.ms:,.2f} ms, {report.default_ms:,.2f} with defaults")
    if report.dropped:
        output.line(f"{counted(report.dropped, 'round')} gave other bits than the defaults: dropped", "bold")
    kept = f"kept in {report.path}: --no-tune does without, removing the file forgets it"
    output.line(kept if report.path else "the defaults stay")
    output.result(asdict(report) | {"path": str(report.path) if report.path else None})
