"""`gptc compile`: a model file becomes a folder of C or CUDA, and the folder a library."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptc.cli.flags import Job, Json, compiles

if TYPE_CHECKING:
    from gptc.cli.output import Output
    from gptc.compiler import Compiled
    from gptc.request import Request
    from gptc.runtime.build import Built


@compiles(mode=None)
def compile_(
    job: Job,
    build: Annotated[bool, typer.Option("--build/--no-build", help="Also build the library.")] = True,
    sanitize: Annotated[bool, typer.Option("--sanitize", help="Address and undefined-behaviour sanitizers.")] = False,
    json: Json = False,
) -> None:
    """Compile a model to C or CUDA, and that to a library."""
    from gptc.cli.output import Output, seconds

    output = Output(json)
    options = replace(job.request.options, sanitize=sanitize)
    job = replace(job, request=replace(job.request, options=options))
    start = time.perf_counter()
    compiled = compile_job(job, output)
    built = build_job(compiled, output) if build else None
    took = time.perf_counter() - start
    _print(output, compiled, built)
    output.line(f"{'found in the cache' if compiled.cached else 'done'} in {seconds(took)}: {compiled.artefact.folder}")
    library = {"library": str(built.library), "compiled_units": built.compiled} if built else {}
    where = {"folder": str(compiled.artefact.folder), "cached": compiled.cached, "total_seconds": took}
    output.result(compiled.summary | where | library)


def compile_and_build(job: Job, output: Output) -> tuple[Compiled, Built]:
    """Run the compiler, then the C compiler, for what is to run here."""
    compiled = compile_job(job, output)
    for remark in _remarks(compiled.summary):
        output.line(remark)
    if compiled.artefact.manifest.target == "cuda":
        _check_gpu(job, compiled, output)  # what does not fit need not be built
    return compiled, build_job(compiled, output)


def compile_job(job: Job, output: Output) -> Compiled:
    """Run the compiler, with progress."""
    from gptc.cli.output import Ticker
    from gptc.compiler import compile_model

    if job.chosen:
        output.line(job.chosen)
    with Ticker(output, "compiling"):
        return compile_model(job.request, job.out)


def build_job(compiled: Compiled, output: Output) -> Built:
    """Run the C compiler, with progress; the summary is told how long it took."""
    from gptc.cli.output import Ticker
    from gptc.compiler import build_model

    start = time.perf_counter()
    with Ticker(output, "building unit") as ticker:
        built = build_model(compiled, progress=ticker)
    compiled.summary["seconds"]["build"] = time.perf_counter() - start
    return built


def for_inference(job: Job, seq: int | None = None) -> Job:
    """The same model as it generates text: one sequence, of `seq` positions at most, nothing of how it is trained."""
    options = replace(job.request.options, mode="infer", remat="none", ranks=False)
    sizes: dict[str, Any] = {"batch": 1, "micro_steps": None, "total_batch": None, "ranks": 1}
    sizes["seq"] = seq or job.request.seq
    return replace(job, request=replace(job.request, options=options, **sizes))


def _check_gpu(job: Job, compiled: Compiled, output: Output) -> None:
    """Refuse what the GPU cannot run, or not hold: with the largest batch that it can, and what `--remat` would do."""
    from gptc.cli.output import Ticker
    from gptc.errors import InputError
    from gptc.runtime.cuda import check_architecture
    from gptc.runtime.device import this_gpu

    manifest, gpu = compiled.artefact.manifest, this_gpu()
    check_architecture(compiled.artefact, gpu)
    need = sum(manifest.segments.values())
    if need <= gpu.free:
        return
    with Ticker(output, "looking for what fits"):
        hint = _what_fits(job.request, gpu.free)
    sizes = f"needs {_gib(need)}; {_gib(gpu.free)} of {gpu.name}'s {_gib(gpu.total)} are free"
    raise InputError.of(f"{manifest.model} with B {manifest.dims['B']} {sizes}", None, hint)


def _what_fits(request: Request, room: int) -> str:
    """The largest batch that fits into `room` bytes, as it was asked for and with `--remat block`."""
    from gptc.compiler import largest_batch, plan

    batch = largest_batch(request, room)
    found = f"--batch {batch} is the largest that fits" if batch else "not even --batch 1 fits"
    if request.options.mode == "infer" or request.options.remat == "block":
        return found if batch else f"{found}; choose a smaller --seq"
    again = replace(request, options=replace(request.options, remat="block"))
    need = sum(plan(again).memory.segments.values())
    if need <= room:
        return f"{found}; with --remat block this one needs {_gib(need)}"
    more = largest_batch(again, room)
    return f"{found}; with --remat block " + (f"--batch {more}" if more else "neither: choose a smaller --seq")


def _remarks(summary: dict[str, Any]) -> list[str]:
    """What is slower than it could be: code for another architecture, kernels that serve for faster ones, and why."""
    found = [f"remark: {summary['elsewhere']}"] if summary["elsewhere"] else []
    for why in dict.fromkeys(summary["slower"].values()):
        kernels = ", ".join(kernel for kernel, reason in summary["slower"].items() if reason == why)
        found.append(f"remark: slower kernels serve, {why}: {kernels}")
    return found


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _print(output: Output, compiled: Compiled, built: Built | None) -> None:
    from gptc.cli.output import seconds, size

    summary: dict[str, Any] = compiled.summary
    dims = compiled.artefact.manifest.dims
    output.line(f"{summary['model']}: {summary['parameters']:,} parameters, B {dims['B']}, T {dims['T']}", "bold")
    output.line(f"target {summary['target']}")
    main = next(iter(summary["programs"]))
    passes = [p for p in summary["passes"] if p["program"] == main]
    rows = [(p["pass_name"], p["before"], p["after"], f"{p['seconds'] * 1e3:.1f}") for p in passes]
    output.table(f"passes of {main}", ("pass", ">nodes before", ">after", ">ms"), rows)
    arenas = [
        (a["program"], summary["programs"][a["program"]], size(a["sum_of_tensors"]), size(a["lower_bound"]),
         size(a["arena"]), f"{a['arena'] / max(1, a['lower_bound']):.3f}")
        for a in summary["memory"]
    ]  # fmt: skip
    columns = ("program", ">kernel calls", ">sum of tensors", ">lower bound", ">arena", ">arena / bound")
    output.table("memory", columns, arenas)
    if summary["remat"] != "none":
        output.line(f"remat {summary['remat']}: gptc show remat tells what is kept and what is computed again")
    output.line("segments: " + ", ".join(f"{name} {size(n)}" for name, n in summary["segments"].items()))
    kernels = f"{len(summary['kernels'])} kernels"
    if built:
        units = len(compiled.artefact.manifest.build.units)
        kernels += f"; {built.compiled} of {units} units compiled, {units - built.compiled} from the cache"
    if summary["tuned"]:
        kernels += f"; {len(summary['tuned'])} tuned"
    output.line(kernels)
    if summary["tuning"]:
        output.line(f"remark: {summary['tuning']}")
    for remark in _remarks(summary):
        output.line(remark)
    if not compiled.cached:
        output.line(", ".join(f"{name} {seconds(took)}" for name, took in summary["seconds"].items()))
