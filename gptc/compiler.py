"""The whole compiler on one page: a model file in, a folder of C out, and the library built from it.

    load_description -> build_graph -> pipelines -> plan_programs -> select -> emit -> write_artefact -> build

What was compiled before is not compiled again (`gptc/memo.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptc.memo import key_of, recall, remember
from gptc.options import Options
from gptc.request import Request, bind
from gptc.runtime.artefact import Artefact, open_artefact
from gptc.runtime.build import Built, build
from gptc.runtime.cache import Cache
from gptc.runtime.tuning import Choices, Tuning

if TYPE_CHECKING:
    from gptc.codegen.program import Program
    from gptc.codegen.target import Target
    from gptc.ir.graph import Graph, Node
    from gptc.model import Description
    from gptc.passes.manager import Context, Remark, Timing
    from gptc.passes.memory import MemoryReport


@dataclass(frozen=True)
class Planned:
    """A model after all passes: one planned graph a program."""

    model: Description
    options: Options
    graphs: tuple[Graph, ...]
    memory: MemoryReport
    timings: tuple[tuple[str, Timing], ...]
    """Program and what one of its passes took."""
    remarks: tuple[tuple[str, Remark], ...]


@dataclass(frozen=True)
class Compiled:
    """An artefact on disk.  `summary` is plain data: what `gptc compile` prints."""

    artefact: Artefact
    summary: dict[str, Any]
    cached: bool


@dataclass(frozen=True)
class Rewritten:
    """A model after its passes, before memory is planned."""

    model: Description
    context: Context
    graphs: tuple[Graph, ...]
    timings: tuple[tuple[str, Timing], ...]
    remarks: tuple[tuple[str, Remark], ...]


def rewrite(request: Request, stop_after: str | None = None, dump: Path | None = None) -> Rewritten:
    """Run every program's passes.

    With `stop_after` only the programs that have such a pass, and only up to it; `dump` is a folder for the graph
    after each pass and its difference to the one before.
    """
    from gptc.model import build_graph, load_description
    from gptc.passes import can_cache, named, pipelines
    from gptc.passes.manager import Context, run_pipeline

    request = within_budget(request)
    model = load_description(request.path, request.overrides)
    options = bind(request, model)
    context = Context(options)
    built = build_graph(model, options.batch, options.seq, with_loss=options.mode == "train")
    graphs: list[Graph] = []
    timings: list[tuple[str, Timing]] = []
    remarks: list[tuple[str, Remark]] = []
    caches = options.mode == "infer" and can_cache(built, options, context)
    for program, passes in named(pipelines(options, model.train, caches), stop_after).items():
        folder = dump / program if dump else None
        graphs.append(run_pipeline(replace(built, name=program), passes, context, dump=folder, stop_after=stop_after))
        timings += [(program, t) for t in context.timings[len(timings) :]]
        remarks += [(program, r) for r in context.remarks[len(remarks) :]]
    return Rewritten(model, context, tuple(graphs), tuple(timings), tuple(remarks))


def within_budget(request: Request) -> Request:
    """A request whose `remat` is a budget in bytes with the level that it comes to; any other as it is."""
    from gptc.budget import PREFIX, least_that_fits
    from gptc.model import build_graph, load_description
    from gptc.passes.remat import blocks

    def at(level: str) -> Request:
        return replace(request, options=replace(request.options, remat=level))

    def total(level: str) -> int:
        return sum(plan(at(level)).memory.segments.values())

    if not request.options.remat.startswith(PREFIX):
        return request
    model = load_description(request.path, request.overrides)
    count = len(blocks(build_graph(model, batch=1, seq=1)))
    return at(least_that_fits(int(request.options.remat.removeprefix(PREFIX)), count, total))


def plan(request: Request) -> Planned:
    """From the model file to planned graphs."""
    from gptc.passes.memory import plan_programs

    done = rewrite(request)
    options, context = done.context.options, done.context
    planned, memory = plan_programs(done.graphs, context, options.plan, _scratch(options))
    remarks = done.remarks + tuple(("all", r) for r in context.remarks[len(done.remarks) :])
    return Planned(done.model, options, planned, memory, done.timings, remarks)


def largest_batch(request: Request, room: int) -> int:
    """The most sequences, fewer than the request's, that fit into `room` bytes; 0 where not even one does."""
    options = plan(request).options
    request = replace(request, micro_steps=options.micro_steps, total_batch=None)
    low, high = 0, options.batch
    while high - low > 1:
        middle = (low + high) // 2
        need = sum(plan(replace(request, batch=middle)).memory.segments.values())
        low, high = (middle, high) if need <= room else (low, middle)
    return low


def _scratch(options: Options) -> Callable[[Node], int]:
    """How many bytes a node's kernel needs while it runs.  Those for a CPU have buffers of each thread instead."""
    from gptc.codegen.select import select
    from gptc.codegen.target import target_for
    from gptc.passes.memory import no_scratch

    if options.target == "c":
        return no_scratch
    target = target_for(options)

    def size(node: Node) -> int:
        call = select(node, target)
        return call.scratch if call else 0

    return size


def tuning_for(options: Options, root: Path) -> Tuning:
    """What `gptc tune` found for this machine and the target, below the cache's folder `root`."""
    from gptc.codegen.target import target_for
    from gptc.runtime.tuning import load_tuning

    cpu = target_for(options).cpu
    return load_tuning(root, cpu.name) if cpu and options.tune else Tuning()


def lower(planned: Planned, target: Target, choices: Choices) -> list[Program]:
    """From planned graphs to kernel calls, with what was tuned."""
    from gptc.codegen.program import Program
    from gptc.codegen.select import select
    from gptc.codegen.tuning import apply

    programs = []
    for graph, scratch in zip(planned.graphs, planned.memory.scratch, strict=True):
        calls = [select(node, target, graph.plan) for node in graph.nodes]
        programs.append(Program(graph, tuple(call for call in calls if call is not None), scratch))
    return apply(programs, target, choices)


def compile_model(request: Request, out: Path, cache: Cache | None = None, choices: Choices | None = None) -> Compiled:
    """The artefact of a request in the folder `out`: from an earlier compilation, or made now.

    `choices` are used in place of what the cache knows from tuning.
    """
    cache = cache or Cache()
    tuning = tuning_for(request.options, cache.root) if choices is None else Tuning(choices)
    key = key_of(request, tuning)
    if known := recall(cache, key, out):
        return Compiled(*known, cached=True)
    seconds: dict[str, float] = {}
    with _timed(seconds, "passes"):
        planned = plan(request)
    with _timed(seconds, "emit"):
        artefact, programs = emit_model(planned, out, tuning.choices)
    summary = _summary(planned, programs, artefact, seconds) | {"tuning": tuning.remark}
    remember(cache, key, summary)
    return Compiled(artefact, summary, cached=False)


def build_model(
    compiled: Compiled, cache: Cache | None = None, progress: Callable[[int, int], None] | None = None
) -> Built:
    """The library of a compiled model."""
    return build(compiled.artefact, compiled.artefact.manifest.build.compiler, cache, progress)


def emit_model(planned: Planned, out: Path, choices: Choices) -> tuple[Artefact, list[Program]]:
    """Planned graphs as a folder in `out`, and the kernel calls in it."""
    from gptc.codegen.artefact import About, emit
    from gptc.codegen.target import target_for
    from gptc.codegen.write import write_artefact

    options, model = planned.options, planned.model
    target = target_for(options)
    programs = lower(planned, target, choices)
    sources = {source.file: source.text for source in model.sources}
    dims = {**model.dims, "B": options.batch, "T": options.seq}
    train = model.train.model_dump() if options.mode == "train" else {}
    about = About(model.name, dims, model.tokenizer, train, sources)
    folder = write_artefact(emit(programs, planned.memory, about, options, target), out)
    return open_artefact(folder), programs


def _summary(
    planned: Planned, programs: list[Program], artefact: Artefact, seconds: dict[str, float]
) -> dict[str, Any]:
    from gptc.codegen.target import target_for

    target = target_for(planned.options)
    kernels = sorted({call.kernel.name for program in programs for call in program.calls})
    return {
        "model": planned.model.name,
        "folder": artefact.folder.name,
        "target": str(target),
        "elsewhere": target.note,
        "parameters": planned.model.parameter_count,
        "programs": {program.name: len(program.calls) for program in programs},
        "kernels": kernels,
        "tuned": sorted({c.kernel.name for program in programs for c in program.calls if c.kernel.tuned}),
        "slower": {call.kernel.name: call.note for program in programs for call in program.calls if call.note},
        "passes": [{"program": program, **asdict(timing)} for program, timing in planned.timings],
        "memory": [asdict(arena) for arena in planned.memory.arenas],
        "segments": dict(planned.memory.segments),
        "remat": planned.options.remat,
        "train": planned.model.train.model_dump(),
        "origins": dict(planned.model.origins),
        "settings": planned.model.settings,
        "seconds": seconds,
    }


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - start
