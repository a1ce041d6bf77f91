"""Every fault of `faults.py` is caught by the checks of gptc itself, and what they were planted in passes them."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gptc.check import check_artefact
from gptc.errors import InternalError, NumericsError
from gptc.ir.graph import Graph
from gptc.ir.interp import check_plan
from gptc.ir.text import parse_graph, print_graph
from gptc.ir.verify import verify
from gptc.passes.manager import Context
from gptc.passes.memory import plan_programs
from gptc.runtime.artefact import open_artefact
from gptc.runtime.build import build
from tests.system.faults import GRAPH_FAULTS, PLAN_FAULTS, SOURCE_FAULTS, GraphFault, PlanFault, SourceFault
from tests.system.reference import feeds, stages, wrong_outputs
from tests.system.workshop import STRICT, Built, Workshop

BLOCKS: dict[str, Any] = {"batch": 1, "seq": 400}
"""More rows than a column's chunk, more positions than attention's block."""


def test_there_are_enough_faults() -> None:
    assert len({fault.what for fault in (*GRAPH_FAULTS, *PLAN_FAULTS, *SOURCE_FAULTS)}) >= 30


# -- graphs (that they pass without a fault is what `test_every_pass_keeps_the_step` shows) ------------


@pytest.mark.parametrize("fault", GRAPH_FAULTS, ids=lambda fault: fault.what)
def test_graph_faults_are_caught(fault: GraphFault) -> None:
    graph = edited(stages(fault.route)[fault.after], fault)
    try:
        verify(graph, graph.stage)
        found = "interpreter" if wrong_outputs(graph, fault.route) else "nothing"
    except InternalError:
        found = "verifier"
    assert found == fault.caught_by


def edited(graph: Graph, fault: GraphFault) -> Graph:
    text, count = re.subn(fault.old, fault.new, print_graph(graph), count=1, flags=re.MULTILINE)
    assert count == 1, "the fault does not apply any more"
    return parse_graph(text)


# -- plans -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned() -> Graph:
    (graph,), _ = plan_programs([stages("fused")["schedule"]], Context())
    return graph


def test_the_plan_passes(planned: Graph) -> None:
    assert plan_findings(planned) == ""


@pytest.mark.parametrize("fault", PLAN_FAULTS, ids=lambda fault: fault.what)
def test_plan_faults_are_caught(planned: Graph, fault: PlanFault) -> None:
    place = planned.plan[fault.at or fault.value]
    place = replace(place, offset=place.offset + fault.shift)
    assert plan_findings(replace(planned, plan={**planned.plan, fault.value: place})) == fault.caught_by


def plan_findings(graph: Graph) -> str:
    """Which of the two, each on its own, finds something wrong with a plan."""
    checks: dict[str, Callable[[], None]] = {
        "verifier": lambda: verify(graph, "planned"),
        "interpreter": lambda: check_plan(graph, feeds(graph)),
    }
    found = []
    for name, check in checks.items():
        try:
            check()
        except InternalError:
            found.append(name)
    return " ".join(found)


# -- sources -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [{}, BLOCKS], ids=["one block", "several blocks"])
def test_the_artefact_passes(workshop: Workshop, sizes: dict[str, Any]) -> None:
    built = workshop.build(**sizes)
    agreement = check_artefact(built.artefact, built.library)
    assert agreement.programs == ["evaluate", "step"]
    assert agreement.worst <= 1


@pytest.mark.parametrize("fault", SOURCE_FAULTS, ids=lambda fault: fault.what)
def test_source_faults_are_caught(workshop: Workshop, fault: SourceFault, tmp_path: Path) -> None:
    built = rebuilt(workshop, workshop.build(**BLOCKS if fault.blocks else {}), fault, tmp_path)
    with pytest.raises(NumericsError):
        check_artefact(built.artefact, built.library)


def rebuilt(workshop: Workshop, built: Built, fault: SourceFault, parent: Path) -> Built:
    """A copy of the artefact with the fault, and a manifest that does not give it away."""
    folder = parent / built.artefact.folder.name
    shutil.copytree(built.artefact.folder, folder)
    path = next((p for p in sorted(folder.glob(fault.files)) if fault.old in p.read_text()), None)
    assert path is not None, f"the fault does not apply any more: {fault.files} has no {fault.old!r}"
    before = path.read_bytes()
    path.write_text(before.decode().replace(fault.old, fault.new, 1))
    manifest = folder / "manifest.json"
    old, new = (hashlib.sha256(text).hexdigest() for text in (before, path.read_bytes()))
    manifest.write_text(manifest.read_text().replace(old, new))
    artefact = open_artefact(folder)
    return Built(artefact, build(artefact, STRICT, workshop.cache).library)
