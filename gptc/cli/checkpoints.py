"""`gptc checkpoints`: what a run can go on from, every byte compared with its hash."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gptc.cli.flags import Json


def checkpoints(
    run: Annotated[Path, typer.Argument(help="Folder of a run, as runs/gpt2-nano.")],
    json: Json = False,
) -> None:
    """List a run's checkpoints and verify them; ends with 5 if one is damaged."""
    from gptc.cli.output import Output
    from gptc.cli.train import CHECKPOINTS
    from gptc.errors import GptcError, InputError, StorageError
    from gptc.runtime.history import History

    output = Output(json)
    history = History(run / CHECKPOINTS)
    found: list[dict[str, Any]] = []
    for step in history.steps():
        problem, size = None, 0
        try:
            size = sum(file.bytes for file in history.verified(step).manifest.files.values())
        except GptcError as error:
            problem = error.diagnostics[0].message
        found.append({"step": step, "path": str(history.path(step)), "bytes": size, "problem": problem})
    if not found:
        raise InputError.of(f"{history.folder}: no checkpoints", None, "gptc train --save-every makes them")
    rows = [(each["step"], f"{each['bytes'] / 1e6:,.1f}", each["problem"] or "sound") for each in found]
    output.table(str(history.folder), (">step", ">MB", "state"), rows)
    code = StorageError.code if any(each["problem"] for each in found) else 0
    output.result({"checkpoints": found}, code)
    raise typer.Exit(code)
