"""`gptc show`: what the compiler makes of a model, step by step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptc.cli.flags import Job, Json, Program, compiles

if TYPE_CHECKING:
    from gptc.cli.high_water import HighWater
    from gptc.cli.output import Output
    from gptc.codegen.program import Program as Lowered
    from gptc.compiler import Planned
    from gptc.passes.manager import Remark


@compiles(mode=None)
def graph(
    job: Job,
    program: Program = None,
    stop_after: Annotated[str | None, typer.Option("--stop-after", help="The last pass to run.")] = None,
    dump: Annotated[Path | None, typer.Option("--dump", help="Folder for the graph after each pass.")] = None,
    json: Json = False,
) -> None:
    """The planned graphs in their text form, or the graphs after one of the passes."""
    from gptc.cli.output import Output
    from gptc.compiler import plan, rewrite
    from gptc.ir.text import print_graphs

    graphs = rewrite(job.request, stop_after, dump).graphs if stop_after or dump else plan(job.request).graphs
    shown = _asked(program, (g.name for g in graphs))
    text = print_graphs(g for g in graphs if g.name in shown)
    output = Output(json)
    if not json:
        print(text, end="")
    output.result({"gir": text})


@compiles(mode=None)
def passes(job: Job, program: Program = None, json: Json = False) -> None:
    """Every pass of every program: nodes before and after, and time."""
    from gptc.cli.output import Output
    from gptc.compiler import plan

    output = Output(json)
    every = plan(job.request).timings
    shown = _asked(program, (name for name, _ in every))
    timings = [(name, t) for name, t in every if name in shown]
    rows = [(name, t.pass_name, t.before, t.after, f"{t.seconds * 1e3:.1f}") for name, t in timings]
    output.table("passes", ("program", "pass", ">nodes before", ">after", ">ms"), rows)
    output.result({"passes": [
        {"program": name, "pass": t.pass_name, "before": t.before, "after": t.after, "seconds": t.seconds}
        for name, t in timings
    ]})  # fmt: skip


@compiles(mode=None)
def remarks(job: Job, program: Program = None, json: Json = False) -> None:
    """What passes did, what they refused, and why; and where no faster kernel could serve."""
    from gptc.cli.output import Output
    from gptc.passes.manager import Remark

    output = Output(json)
    planned, programs = _lowered(job)
    slower = [
        (p.name, Remark("select", "missed", c.node.name, f"{c.kernel.name}: {c.note}", 0, c.node.span))
        for p in programs for c in p.calls if c.note
    ]  # fmt: skip
    shown = _asked(program, (*(p.name for p in programs), *(name for name, _ in planned.remarks)))
    found = [(name, r) for name, r in (*planned.remarks, *slower) if name in shown]
    for line in _told(found):
        output.line(line)
    output.result({"remarks": [
        {"program": name, "pass": r.pass_name, "kind": r.kind, "node": r.node, "message": r.message, "bytes": r.bytes,
         "span": str(r.span) if r.span else None}
        for name, r in found
    ]})  # fmt: skip


def _told(remarks: Sequence[tuple[str, Remark]]) -> Iterator[str]:
    """A line for each remark of a program; those that layers have in common are one."""
    lines: dict[str, list[str]] = {}
    for program, r in remarks:
        verb = {"done": "saves ", "missed": "would save "}.get(r.kind, "")
        place, size = f"{r.span}: " if r.span else "", f" ({verb}{r.size})" if r.size else ""
        line = f"{place}{program}: {r.told}{size}"
        lines.setdefault(re.sub(r"\.\d+(?=\.)|_\d+(?=:)", lambda m: f"{m[0][0]}*", line), []).append(line)
    for common, alike in lines.items():
        yield alike[0] if len(alike) == 1 else f"{common}, {len(alike)} times"


@compiles()
def remat(job: Job, json: Json = False) -> None:
    """What the backward pass finds kept, and what it computes again (with --remat)."""
    from gptc.cli.output import Output, size
    from gptc.compiler import plan

    output = Output(json)
    planned = plan(job.request)
    found = [r for program, r in planned.remarks if r.pass_name == "remat"]
    rows = [(r.node, r.message, f"{r.bytes:,}") for r in found]
    totals = {kind: sum(r.bytes for r in found if r.kind == kind) for kind in ("note", "done")}
    segments = dict(planned.memory.segments)
    arena = f"arena {size(segments['arena'])}"
    if rows:
        output.table(f"remat {planned.options.remat}", ("value", "how", ">bytes"), rows)
        output.line(f"kept {size(totals['note'])}, computed again {size(totals['done'])}; {arena}")
    else:
        output.line(f"nothing is computed again; --remat cheap, block or budget=SIZE asks for it; {arena}")
    output.result({
        "remat": planned.options.remat, "kept": totals["note"], "again": totals["done"], "segments": segments,
        "values": [{"name": r.node, "kept": r.kind == "note", "bytes": r.bytes, "how": r.message} for r in found],
    })  # fmt: skip


@compiles(mode=None)
def plan(
    job: Job,
    program: Program = None,
    every: Annotated[bool, typer.Option("--all", help="Every tensor: its place, and how long it lives.")] = False,
    json: Json = False,
) -> None:
    """Where memory goes: the segments, and what is alive when a program needs the most."""
    from gptc.cli.high_water import high_water
    from gptc.cli.output import Output, size
    from gptc.codegen.manifest import plan_json

    output = Output(json)
    planned, programs = _lowered(job)
    shown = _asked(program, (p.name for p in programs))
    segments = dict(planned.memory.segments)
    output.line("segments: " + ", ".join(f"{name} {size(nbytes)}" for name, nbytes in segments.items()))
    found = []
    for each, report in zip(programs, planned.memory.arenas, strict=True):
        if each.name in shown:
            most, told = high_water(each), plan_json(each, report)
            memory = ", ".join(f"{name.replace('_', ' ')} {size(n)}" for name, n in told["memory"].items())
            output.line(f"{each.name}: {memory}", "bold")
            if every:
                _every_value(output, told["values"])
            elif each.calls:
                _alive(output, each, most)
            mark = {"call": most.call, "bytes": most.nbytes, "alive": [t.name for t in most.alive]}
            found.append({**told, "high_water": mark})
    output.result({"segments": segments, "programs": found})


LARGEST = 12
"""Rows about what fills an arena when it is fullest."""


def _alive(output: Output, program: Lowered, most: HighWater) -> None:
    """The call that needs the most, and what fills the arena then."""
    from gptc.cli.high_water import by_layer

    call = program.calls[most.call]
    place = f", {call.node.span}" if call.node.span else ""
    output.line(f"fullest at call {most.call} of {len(program.calls)}, {call.kernel.name}{place}")
    rows = by_layer(most.alive)
    shown, rest = rows[:LARGEST], rows[LARGEST:]
    if rest:
        shown.append((f"{len(rest)} more", "", sum(row[2] for row in rest), sum(row[3] for row in rest)))
    output.table("", ("value", "type", ">tensors", ">bytes"), [(*row[:3], f"{row[3]:,}") for row in shown])


def _every_value(output: Output, values: Sequence[Mapping[str, Any]]) -> None:
    """Where each value lives, from which kernel call to which."""
    rows = [
        (v["name"], v["dtype"], "x".join(map(str, v["shape"])) or "scalar", f"{v['segment']} + {v['offset']:,}",
         f"{v['bytes']:,}", v["first"], v["last"])
        for v in values
    ]  # fmt: skip
    output.table("", ("value", "type", "shape", ">place", ">bytes", ">first call", ">last"), rows)


@compiles(mode=None)
def kernels(job: Job, program: Program = None, json: Json = False) -> None:
    """The kernels, how often each is called, and what it costs."""
    from gptc.cli.output import Output
    from gptc.ir.analysis import cost

    output = Output(json)
    _, programs = _lowered(job)
    shown = _asked(program, (p.name for p in programs))
    found: dict[str, list[float]] = {}
    for each in programs:
        for call in each.calls if each.name in shown else ():
            spent, row = cost(call.node), found.setdefault(call.kernel.name, [0, 0, 0])
            found[call.kernel.name] = [row[0] + 1, row[1] + spent.flops, row[2] + spent.nbytes]
    table = sorted(found.items(), key=lambda item: -item[1][1])
    rows = [(name, f"{n}", f"{flops / 1e6:,.1f}", f"{nbytes / 1e6:,.1f}") for name, (n, flops, nbytes) in table]
    output.table("kernels", ("kernel", ">calls", ">Mflop", ">MB moved"), rows)
    output.result({"kernels": [{"name": k, "calls": n, "flops": f, "bytes": b} for k, (n, f, b) in table]})


@compiles(mode=None)
def kernel(
    job: Job,
    name: Annotated[str, typer.Argument(help="The kernel's name, or how it begins.", show_default=False)],
    json: Json = False,
) -> None:
    """The source of one kernel."""
    from gptc.cli.output import Output
    from gptc.compiler import compile_model
    from gptc.errors import InputError, did_you_mean

    output = Output(json)
    artefact = compile_model(job.request, job.out).artefact
    files = {path.stem: path for path in sorted((artefact.folder / "kernels").iterdir())}
    known = list(files)
    matches = [k for k in known if k == name] or [k for k in known if k.startswith(name)]
    if len(matches) != 1:
        several = f"{name!r} could be {', '.join(matches)}" if matches else f"no kernel is called {name!r}"
        raise InputError.of(several, hint=did_you_mean(name, known) or "gptc show kernels lists them")
    source = files[matches[0]].read_text(encoding="utf-8")
    if not json:
        print(source, end="")
    output.result({"kernel": matches[0], "source": source})


def _asked(program: str | None, programs: Iterable[str]) -> list[str]:
    """The programs to show, each once: the one that was asked for, or all."""
    from gptc.errors import InputError, did_you_mean

    names = list(dict.fromkeys(programs))
    if program is None:
        return names
    if program not in names:
        hint = did_you_mean(program, names) or f"programs of this model: {', '.join(names)}"
        raise InputError.of(f"no program is called {program!r}", None, hint)
    return [program]


def _lowered(job: Job) -> tuple[Planned, list[Lowered]]:
    """The planned model and its kernel calls."""
    from gptc.codegen.target import target_for
    from gptc.compiler import lower, tuning_for
    from gptc.compiler import plan as plan_model
    from gptc.runtime.cache import Cache

    planned = plan_model(job.request)
    tuning = tuning_for(planned.options, Cache().root)
    return planned, lower(planned, target_for(planned.options), tuning.choices)


VIEWS: dict[str, Callable[..., None]] = {
    "graph": graph, "passes": passes, "plan": plan, "remat": remat, "kernels": kernels, "remarks": remarks,
    "kernel": kernel,
}  # fmt: skip
