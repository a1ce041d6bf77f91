"""`gptc bench`: how fast a model is on this machine, beside what this machine can do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptc.cli.flags import TRAINING, Job, Json, Threads, compiles

if TYPE_CHECKING:
    from gptc.cli.output import Output
    from gptc.runtime.device import Gpu
    from gptc.runtime.gpu_probe import GpuProbe
    from gptc.runtime.machine import Machine, Neighbours
    from gptc.runtime.model import Model
    from gptc.runtime.probe import Peaks, Probe
    from gptc.runtime.profile import KernelTime, Times, TrainingStep

Repeats = Annotated[int, typer.Option("--repeats", help="Steps to time, after two to warm up; at least 3.")]


@compiles("train")
def train(job: Job, repeats: Repeats = 7, threads: Threads = None, json: Json = False) -> None:
    """How long a training step takes, from its inputs to its loss."""
    from gptc.cli.output import Output, Ticker
    from gptc.runtime.profile import time_steps

    output = Output(json)
    bench = _prepare(job, output, threads, repeats)
    with Ticker(output, "step") as ticker:
        times = time_steps(bench.step, repeats, ticker)
    setting = bench.finish()
    flops = sum(call.flops for call in bench.step.calls)
    gflops = flops / times.median / 1e6
    speed = 1e3 * bench.step.tokens / times.median
    peak = setting.peaks.peak(job.request.options.precision)
    _print_times(output, bench.step, times)
    output.line(f"{gflops:,.1f} GFLOP/s, {gflops / peak:.0%} of the peak; {setting.memory}")
    setting.print(output)
    output.result(
        _about(bench.step) | times.to_json() | {"tokens_per_s": speed, "flops": flops, "gflops": gflops}
        | setting.to_json()
    )  # fmt: skip


@compiles("train")
def kernels(job: Job, repeats: Repeats = 7, threads: Threads = None, json: Json = False) -> None:
    """Where the time of a training step goes, kernel by kernel."""
    from gptc.cli.output import Output, Ticker
    from gptc.runtime.profile import time_kernels

    output = Output(json)
    bench = _prepare(job, output, threads, repeats)
    with Ticker(output, "step") as ticker:
        times, found = time_kernels(bench.step, repeats, ticker)
    setting = bench.finish()
    columns = ("kernel", ">calls", ">ms a step", ">% of step", ">GFLOP/s", ">% of peak", ">GB/s", ">% of memory")
    rows = [_row(kernel, setting.peaks) for kernel in found]
    _print_times(output, bench.step, times)
    output.table("kernels of a step", columns, rows)
    output.line("GB/s counts each operand and result once: above 100 % of memory, they came from a cache")
    setting.print(output)
    output.result(
        _about(bench.step) | times.to_json() | {"tokens_per_s": 1e3 * bench.step.tokens / times.median}
        | {"kernels": [_kernel_json(kernel, setting.peaks) for kernel in found]} | setting.to_json()
    )  # fmt: skip


@compiles("infer", without=TRAINING)
def decode(
    job: Job,
    prompt: Annotated[int, typer.Option("--prompt", min=1, help="Tokens before those that are timed.")] = 32,
    repeats: Annotated[int, typer.Option("--repeats", help="Tokens to time, after two to warm up.")] = 64,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """How long a generated token takes, and the prompt before it."""
    from gptc.cli.output import Output, Ticker
    from gptc.runtime.decoding import Decoding
    from gptc.runtime.machine import Neighbours

    output, longest = Output(json), prompt + repeats + 2
    seq = job.request.seq or max(longest, 64)
    one = replace(job.request, batch=job.request.batch or 1, seq=seq)
    model, probe = _load(replace(job, request=one), output, threads)
    decoding, neighbours = Decoding(model, prompt, repeats), Neighbours()
    with Ticker(output, "token") as ticker:
        prompts, times = decoding.time(ticker)
    setting = _setting(model, probe, neighbours)
    precision = one.options.precision
    low, high = times.quartiles
    speed = 1e3 * decoding.batch / times.median
    gbs = decoding.bytes_of_token() / times.median / 1e6
    share = gbs / setting.peaks.read_gbs
    output.line(
        f"{model.artefact.manifest.model} in {precision}, B {decoding.batch}, after {prompt} tokens: "
        f"{times.median:,.3f} ms a token (quartiles {low:,.3f} .. {high:,.3f} of {repeats}), {speed:,.1f} tokens/s"
    )
    output.line(
        f"{gbs:,.1f} GB/s, {share:.0%} of what memory gives to reads; the prompt takes {prompts.median:,.1f} ms; "
        f"{setting.memory}"
    )
    setting.print(output)
    about = {
        "model": model.artefact.manifest.model, "precision": precision, "batch": decoding.batch, "seq": seq,
        "prompt": prompt, "bytes": decoding.bytes_of_token(), "gbs": gbs, "of_memory": share, "tokens_per_s": speed,
        "prefill": prompts.to_json(),
    }  # fmt: skip
    output.result(about | times.to_json() | setting.to_json())


BENCHES = {"train": train, "kernels": kernels, "decode": decode}


@dataclass(frozen=True)
class _Setting:
    """All that a figure must be read beside."""

    machine: Machine
    peaks: Peaks
    neighbours: float | None
    rss: int
    gpu: Gpu | None
    """None for a target that is the CPU."""
    segments: int
    """Bytes of the model's memory."""

    @property
    def memory(self) -> str:
        """What the step took of the memory that it runs in."""
        if self.gpu:
            return f"device memory {self.segments / 2**20:,.0f} MiB"
        return f"peak memory {self.rss / 2**20:,.0f} MiB"

    def print(self, output: Output) -> None:
        from gptc.runtime.machine import warning

        peaks = self.peaks
        what = "our product of bf16" if self.gpu else "bf16"
        narrow = f" ({peaks.bf16_gflops:,.0f} of {what})" if peaks.bf16_gflops else ""
        output.line(
            f"probes: {peaks.gflops:,.0f} GFLOP/s of multiply-adds{narrow}, {peaks.read_gbs:,.1f} GB/s read, "
            f"{peaks.triad_gbs:,.1f} GB/s triad"
        )
        others = "" if self.neighbours is None else f"; others used {self.neighbours:.1f} cores"
        output.line(f"{self.machine}{others}" + (f"; {self.gpu.name}" if self.gpu else ""))
        if told := warning(self.neighbours):
            output.line(told, "bold")

    def to_json(self) -> dict[str, Any]:
        from gptc.runtime.machine import warning

        gpu = {"gpu": asdict(self.gpu), "device_memory": self.segments} if self.gpu else {}
        return gpu | {
            "peak_rss": self.rss, "machine": self.machine.to_json(), "probes": asdict(self.peaks),
            "neighbours": self.neighbours, "warning": warning(self.neighbours),
        }  # fmt: skip


class _Bench:
    """A step ready to be timed, and the probes to time after it."""

    def __init__(self, step: TrainingStep, probe: Probe | GpuProbe) -> None:
        from gptc.runtime.machine import Neighbours

        self.step, self.probe, self.neighbours = step, probe, Neighbours()

    def finish(self) -> _Setting:
        """The machine, right after the step; its memory before the probes took theirs."""
        return _setting(self.step.model, self.probe, self.neighbours)


def _setting(model: Model, probe: Probe | GpuProbe, neighbours: Neighbours) -> _Setting:
    """Take the probes' figures, after those that they stand beside."""
    from gptc.runtime.device import this_gpu
    from gptc.runtime.machine import peak_rss, this_machine

    manifest = model.artefact.manifest
    rss, cores = peak_rss(), neighbours.cores()
    gpu = this_gpu() if manifest.target == "cuda" else None
    memory = sum(manifest.segments.values())
    return _Setting(this_machine(probe.threads), probe.measure(), cores, rss, gpu, memory)


def _prepare(job: Job, output: Output, threads: int | None, repeats: int) -> _Bench:
    """A step of the model, and the probes."""
    from gptc.runtime.profile import TrainingStep, check_repeats

    check_repeats(repeats)
    model, probe = _load(job, output, threads)
    return _Bench(TrainingStep(model), probe)


def _load(job: Job, output: Output, threads: int | None) -> tuple[Model, Probe | GpuProbe]:
    """Compile, build and load the model, and build the probes with the same flags."""
    from gptc.cli.compile import compile_and_build
    from gptc.cli.peak import build_probe
    from gptc.runtime.model import load_model

    compiled, built = compile_and_build(job, output)
    model = load_model(compiled.artefact, built.library, threads)
    return model, build_probe(job.request.options, compiled.artefact.manifest.build)


def _about(step: TrainingStep) -> dict[str, Any]:
    manifest = step.model.artefact.manifest
    return {
        "model": manifest.model, "target": manifest.target, "instructions": manifest.build.instructions,
        "batch": step.batch, "seq": step.seq,
        "micro_steps": manifest.micro_steps, "loss": float(step.model["loss"]),
    }  # fmt: skip


def _print_times(output: Output, step: TrainingStep, times: Times) -> None:
    low, high = times.quartiles
    about = f"{step.model.artefact.manifest.model}, B {step.batch}, T {step.seq}"
    output.line(
        f"{about}: {times.median:,.2f} ms a step (quartiles {low:,.2f} .. {high:,.2f} of {len(times.ms)}), "
        f"{1e3 * step.tokens / times.median:,.0f} tokens/s"
    )


def _row(kernel: KernelTime, peaks: Peaks) -> tuple[str, ...]:
    of_peak, of_memory = kernel.gflops / peaks.peak(kernel.dtype), kernel.gbs / peaks.bandwidth
    return (
        kernel.kernel, f"{kernel.calls}", f"{kernel.ms:,.3f}", f"{kernel.share:.1%}", f"{kernel.gflops:,.1f}",
        f"{of_peak:.0%}", f"{kernel.gbs:,.1f}", f"{of_memory:.0%}",
    )  # fmt: skip


def _kernel_json(kernel: KernelTime, peaks: Peaks) -> dict[str, Any]:
    rates = {"gflops": kernel.gflops, "gbs": kernel.gbs}
    shares = {"of_peak": kernel.gflops / peaks.peak(kernel.dtype), "of_memory": kernel.gbs / peaks.bandwidth}
    return asdict(kernel) | rates | shares
