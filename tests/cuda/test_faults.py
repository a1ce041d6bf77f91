"""What goes wrong around a GPU, through the command line: what is told, the exit code, and what stays on the disk."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gptc.cli import app
from gptc.cli.flags import auto_target
from gptc.codegen.target import describe_cuda
from gptc.compiler import plan
from gptc.options import Options
from gptc.request import Request
from gptc.runtime import device
from gptc.runtime.artefact import open_artefact
from gptc.runtime.calls import planned
from tests.conftest import TINY
from tests.cuda.pretended import Error, PretendedDriver, nvidia_smi, pretended_nvcc

RUN = ("train", str(TINY), "--target", "cuda", "--data", "text.txt", "--val-every", "0", "--plain-launches",
       "--march", "sm_80", "--set", "dims.L=1")  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A folder to work in, and how to give it a GPU and an nvcc."""

    folder: Path
    patch: pytest.MonkeyPatch

    def install(
        self, gpu: PretendedDriver | None = None, capability: tuple[int, int] = (9, 0), release: str = "13.0",
        complaint: str = "",
    ) -> None:  # fmt: skip
        device.driver.cache_clear()
        describe_cuda.cache_clear()
        self.patch.setitem(sys.modules, "pycuda", gpu)
        self.patch.setitem(sys.modules, "pycuda.driver", gpu)
        self.patch.setenv("NVCC", pretended_nvcc(self.folder / "bin", release, complaint))
        nvidia_smi(self.folder / "bin", capability if gpu else None)

    def gptc(self, *arguments: str) -> tuple[int, str]:
        """Exit code, and what was said."""
        done = CliRunner().invoke(app, arguments)
        return done.exit_code, done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "text.txt").write_bytes(bytes(range(50)) * 40)
    (folder / "bin").mkdir()
    return folder


@pytest.fixture
def machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GPTC_CACHE_DIR", str(folder / "cache"))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("gptc.cli.settings.peak_flops", lambda options, build: None)
    yield Machine(folder, monkeypatch)
    device.driver.cache_clear()
    describe_cuda.cache_clear()


def lost_at(number: int) -> Callable[[int], None]:
    def wait(count: int) -> None:
        if count >= number:
            raise Error("cuStreamSynchronize failed: uncorrectable ECC error encountered")

    return wait


def test_auto_tells_why(machine: Machine) -> None:
    """The GPU where there is all that it needs; else C, and what is missing."""
    machine.install(PretendedDriver())
    assert auto_target("f32") == ("cuda", "target cuda: Pretended GPU, sm_90, 1.0 GiB free")
    assert auto_target("int8") == ("c", "target c: weights in 8 bits are for CPUs")
    but = "target c: there is a GPU, Pretended GPU, but "
    machine.install(PretendedDriver((7, 0)), capability=(7, 0))
    assert auto_target("f32") == ("c", f"{but}kernels are written for sm_80 and later, not for sm_70")
    machine.install(PretendedDriver(), release="11.8")
    assert auto_target("f32")[1].startswith(but)
    assert auto_target("f32")[1].endswith("nvcc is of CUDA 11.8; the emitted code needs 12.5 or later")
    machine.patch.setenv("NVCC", "no-nvcc-here")
    assert auto_target("f32") == ("c", f"{but}no CUDA compiler: 'no-nvcc-here' was not found")


def test_no_gpu(machine: Machine) -> None:
    """Code can be made, for the oldest architecture and saying so, but not run; left to gptc, it is C's."""
    machine.install()
    code, said = machine.gptc("compile", str(TINY), "--target", "cuda", "--no-build")
    assert code == 0, said
    assert "remark: no GPU here that nvidia-smi knows: the code is for sm_80" in said
    code, said = machine.gptc("compile", str(TINY), "--target", "auto", "--no-build")
    assert code == 0, said
    assert "target c: cannot load pycuda: " in said
    code, said = machine.gptc(*RUN)
    assert code == 3
    assert "error: cannot load pycuda: " in said


def test_an_old_architecture(machine: Machine) -> None:
    """Asked for, it is refused; found, so is the code of a newer one, before anything is built."""
    machine.install(PretendedDriver((7, 5)), capability=(7, 5))
    for march in ("native", "sm_75"):
        code, said = machine.gptc(*RUN, "--march", march)
        assert code == 1
        assert "error: kernels are written for sm_80 and later, not for sm_75\n  help: compile" in said
    code, said = machine.gptc(*RUN, "--march", "sm_80")
    assert code == 1
    assert "compiled for sm_80; this GPU, Pretended GPU, is sm_75\n  help: compile it again with --target c" in said
    code, said = machine.gptc(*RUN, "--march", "sm_100")
    assert code == 1
    assert "knows no architecture 'sm_100'\n  help: of sm_80 and later it knows sm_80, sm_90, sm_90a\n" in said


def total(request: Request) -> int:
    return sum(plan(request).memory.segments.values())


def test_too_little_memory(machine: Machine) -> None:
    """Told from the plan, with the largest batch that fits and what computing again would save."""
    free = 350_000
    machine.install(PretendedDriver(free=free), complaint="nothing must be built")
    code, said = machine.gptc(*RUN, "--batch", "8")
    assert code == 1
    found = re.search(r"help: --batch (\d+) is the largest that fits; with --remat block --batch (\d+)\n", said)
    assert found, said
    for remat, largest in zip(("none", "block"), map(int, found.groups()), strict=True):
        options = Options(target="cuda", march="sm_80", remat=remat)
        fits, not_any_more = (Request(TINY, options, ("dims.L=1",), batch=n) for n in (largest, largest + 1))
        assert total(fits) <= free < total(not_any_more)


def test_memory_that_another_process_took(machine: Machine) -> None:
    gpu = PretendedDriver()
    machine.install(gpu)
    gpu.gives = 1000
    code, said = machine.gptc(*RUN)
    assert code == 1
    assert "needs more memory than the GPU has free: cuMemAlloc failed: out of memory\n  help: compile" in said


def test_a_gpu_lost_in_the_middle(machine: Machine) -> None:
    """The kernel that was awaited, its ops and line; the checkpoint before stays, and the run goes on from it."""
    machine.install(PretendedDriver())
    begin = (*RUN, "--run", "run", "--save-every", "2", "--steps", "6")
    code, said = machine.gptc(*begin, "--json")
    assert code == 0, said
    whole = (machine.folder / "run" / "weights.safetensors").read_bytes()
    waits = 1 + planned(open_artefact(json.loads(said.splitlines()[-1])["folder"]))[0]["calls"]  # of a step
    machine.install(PretendedDriver(on_wait=lost_at(4 * waits + 3)))
    code, said = machine.gptc(*begin, "--run", "lost")
    assert code == 5, said
    assert re.search(r"tiny.yaml:\d+:\d+: error: the GPU was lost during kernel call \d+ of step, \w+,: ", said), said
    assert re.search(r"\n  (\w+)_[0-9a-f]{6} computes \w+", said), said
    assert "--resume auto goes on from the last checkpoint" in said
    kept = machine.folder / "lost" / "checkpoints"
    while list(kept.glob(".writing-*")):  # the thread that writes ends before a process would
        time.sleep(0.01)
    assert sorted(path.name for path in kept.glob("step-*")) == ["step-00000002", "step-00000004"]
    machine.install(PretendedDriver())
    code, said = machine.gptc(*begin, "--run", "lost", "--resume", "auto")
    assert code == 0, said
    assert (machine.folder / "lost" / "weights.safetensors").read_bytes() == whole


def test_a_kernel_that_does_not_start(machine: Machine) -> None:
    machine.install(PretendedDriver())
    machine.patch.setenv("FAILS", "row_")
    code, said = machine.gptc(*RUN)
    assert code == 70
    assert re.search(r"tiny.yaml:\d+:\d+: error: step: cannot launch row_\w+: invalid argument\n", said), said
    assert re.search(r"\n  row_\w+ computes \w+", said), said


def test_a_kernel_that_does_not_compile(machine: Machine) -> None:
    """The compiler's own words, the kernel that they name, its ops and line."""
    machine.install(PretendedDriver(), complaint="kernels/{kernel}.cu(7): error: no")
    code, said = machine.gptc(*RUN)
    assert code == 70
    assert re.search(r"tiny.yaml:\d+:\d+: error: programs/kernels.cu does not compile with \S+nvcc\n", said), said
    assert re.search(r"\n  (\w+) computes .*\n  kernels/\1.cu\(7\): error: no\n", said), said


def test_a_host_compiler_that_nvcc_refuses(machine: Machine) -> None:
    machine.install(PretendedDriver(), complaint="#error -- unsupported GNU version! gcc versions later than 11")
    code, said = machine.gptc(*RUN)
    assert code == 3
    assert "unsupported GNU version" in said
    assert "NVCC_CCBIN" in said


def test_graphs_without_their_library(machine: Machine) -> None:
    """Told before the first step."""
    machine.install(PretendedDriver())
    machine.patch.setitem(sys.modules, "cuda.bindings.driver", None)
    device.bindings.cache_clear()
    code, said = machine.gptc(*(flag for flag in RUN if flag != "--plain-launches"))
    assert code == 3
    assert "cannot load cuda-bindings" in said
    assert "--plain-launches" in said
    assert "step 1" not in said
