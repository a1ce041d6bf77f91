"""What `plan.json` says of an artefact's kernel calls: which kernel, which ops, which line of the model file."""

from __future__ import annotations

import json
from typing import Any

from gptc.errors import Span
from gptc.runtime.artefact import Artefact


def planned(artefact: Artefact) -> list[dict[str, Any]]:
    """The programs as `docs/contracts.md` describes them: entry n of a program's `kernels` is its call n."""
    plan = json.loads((artefact.folder / "plan.json").read_text(encoding="utf-8"))
    programs: list[dict[str, Any]] = plan["programs"]
    return programs


def made_for(artefact: Artefact, kernel: str) -> tuple[Span | None, str]:
    """The line of the model file that a kernel serves first, and its ops; None and nothing for one that is unknown."""
    calls = [call for program in planned(artefact) for call in program["kernels"] if call["kernel"] == kernel]
    if not calls:
        return None, ""
    call = next((call for call in calls if call["at"]), calls[0])
    return Span(*call["at"]) if call["at"] else None, f"{kernel} computes {' + '.join(call['ops'])}"


def kernel_of(artefact: Artefact, program: str, call: int) -> str:
    """The kernel of call number `call` of a program."""
    calls = next(p["kernels"] for p in planned(artefact) if p["name"] == program)
    return str(calls[call]["kernel"])
