"""`gptc diff`: the built artefact against the interpreter, call by call."""

from __future__ import annotations

import time
from dataclasses import asdict

from gptc.cli.flags import Job, Json, Threads, compiles


@compiles(mode=None)
def diff(job: Job, threads: Threads = None, json: Json = False) -> None:
    """Compare every tensor of the built artefact with the interpreter, and stop at the first difference."""
    from gptc.check import check_artefact
    from gptc.cli.compile import compile_and_build
    from gptc.cli.output import Output, Ticker, seconds

    output = Output(json)
    compiled, built = compile_and_build(job, output)
    start = time.perf_counter()
    with Ticker(output, "comparing call") as ticker:
        agreement = check_artefact(
            compiled.artefact, built.library, threads, lambda program, done, total: ticker(done, total, program)
        )
    took = time.perf_counter() - start
    output.line(
        f"equal within bounds: {agreement.elements:,} numbers in {agreement.calls} calls of "
        f"{', '.join(agreement.programs)}; closest to its bound is {agreement.worst_at}, at {agreement.worst:.2f} of it"
    )
    output.line(f"compared in {seconds(took)}")
    output.result(asdict(agreement) | {"folder": str(compiled.artefact.folder), "seconds": took})
