"""The CUDA target without a device: what it emits, that nvcc takes it, and what a missing tool is called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest

from gptc.codegen.probes import gpu_probe
from gptc.codegen.render import contract, cuda_headers, render, render_kernel
from gptc.codegen.select import select
from gptc.codegen.target import CUDA_FLAGS, Target, describe_cuda
from gptc.compiler import Compiled, compile_model
from gptc.errors import InputError, ToolMissing
from gptc.ir.body import body
from gptc.ir.graph import Node
from gptc.ir.ops import REGISTRY
from gptc.ir.ops.collective import Collective
from gptc.ir.ops.foreach import Foreach
from gptc.ir.ops.region import Row
from gptc.ir.ops.shape import Concat
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir, template_dir
from gptc.runtime.cache import Cache
from tests.codegen.native import nodes_with_kernels, region, sample_graph
from tests.codegen.regions import REGIONS
from tests.conftest import TINY
from tests.cuda.kernel_compiler import untidy
from tests.cuda.test_kernels import WIDE

CUDA = Target("cuda", "nvcc", "sm_80", CUDA_FLAGS, True, suffix="cu")
ELSEWHERE = {"matmul", "gemv", "gemv_f32", "attention_cached", "cache_append"}
"""Templates whose own tests compile them for both architectures."""
STRICT = ("-Werror=all-warnings", "-Xcompiler=-Wall")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


def kernels() -> dict[str, str]:
    """The kernels of regions that stress each template."""
    return rendered(REGIONS.values())


def rendered(nodes: Iterable[Node]) -> dict[str, str]:
    calls = [select(node, CUDA) for node in nodes]
    return {c.kernel.name: render_kernel(CUDA, c.kernel, [c.kernel.name]) for c in calls if c is not None}


def test_columns_are_tested_only_where_outcomes_differ() -> None:
    """The loop over a vector without padding and without the target has no test, and no sum of zeros."""
    entropy = body(
        "x t", "y loss", "y = where(lt(col(), 13), x, 0)\nloss = row_sum(where(eq(col(), t), x, 0)) + row_max(y)"
    )
    call = select(region(Row, entropy, "f32[3,16]", "i32[3,1]", dtypes=("f32", "f32")), CUDA)
    assert call is not None
    text = render_kernel(CUDA, call.kernel, [call.kernel.name])
    settled = re.findall(r"if \((j0 \+ [^{;]*)\) \{\n(.*?)\} else \{", text, flags=re.DOTALL)
    assert [when for when, _ in settled] == ["j0 + VEC <= 13 && (t_i < j0 || t_i >= j0 + VEC)", "j0 + VEC <= 13"]
    assert not any(re.search(r"13|t_i|\?|\+=", lines) for _, lines in settled)


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Compiled]:
    """The shipped model for an architecture: the older one in f16, the newer in bf16 without master weights."""

    @cache
    def compiled(arch: str) -> Compiled:
        folder = tmp_path_factory.mktemp(f"nano_{arch}")
        old = arch == "sm_80"
        options = Options(target="cuda", precision="f16" if old else "bf16", march=arch)
        told = () if old else ("train.master_weights=false",)
        return compile_model(Request(models_dir() / "gpt2-nano.yaml", options, told), folder, Cache(folder / "cache"))

    return compiled


@needs_nvcc
def test_makefile_builds_the_library(nano: Callable[[str], Compiled], tmp_path: Path) -> None:
    """Every unit of the shipped model compiles without a warning."""
    folder = shutil.copytree(nano("sm_90a").artefact.folder, tmp_path / "copy")
    flags = " ".join([*describe_cuda("nvcc", "sm_90a").flags, *STRICT, "-Iinclude"])
    subprocess.run(["make", "-s", "-j2", f"NVCCFLAGS={flags}"], cwd=folder, check=True)
    assert (folder / "libmodel.so").is_file()
    subprocess.run(["make", "-s", "clean"], cwd=folder, check=True)
    assert not list(folder.rglob("*.o"))
    assert not (folder / "libmodel.so").exists()


@needs_nvcc
def test_the_floor_compiles(nano: Callable[[str], Compiled]) -> None:
    compile_unit(nano("sm_80").artefact.folder)


def others() -> list[Node]:
    """What no region is: what ranks do together, what is done to many tensors at once, what joins some."""
    found = []
    for name, kind in sorted(REGISTRY.items()):
        if kind.kernel and (issubclass(kind, Collective) or kind in (Concat, Foreach)):
            for attributes, types in kind.samples:
                found += nodes_with_kernels(sample_graph(name, attributes, types))
    return found


@needs_nvcc
def test_every_region_compiles(tmp_path: Path) -> None:
    narrow = WIDE["sums beside odd rows"]  # so few columns that a block is one warp
    texts = kernels() | rendered([*others(), narrow]) | {"probe": gpu_probe(CUDA).files["probe.cu"]}
    compile_unit(unit_of(tmp_path, texts))


@needs_nvcc
def test_no_template_escapes(nano: Callable[[str], Compiled], tmp_path: Path) -> None:
    """Each is compiled for both architectures: what the shipped model does not have on Hopper, here, a kernel of each.

    The probe is compiled above, and ELSEWHERE with tests of their own; Hopper never runs the floor's attention.
    """
    calls = [call for node in (*REGIONS.values(), *others()) if (call := select(node, CUDA))]
    texts = {c.kernel.template: (c.kernel.name, render_kernel(CUDA, c.kernel, [c.kernel.name])) for c in calls}
    floor, hopper = (set().union(*templates_of(nano(arch)).values()) for arch in ("sm_80", "sm_90a"))
    here = texts.keys() - hopper - ELSEWHERE
    paths = (template_dir() / "cuda").glob("*.cu.j2")
    every = {path.name.split(".")[0] for path in paths if '{% extends "cuda/launcher.cu.j2" %}' in path.read_text()}
    assert every - hopper - here - ELSEWHERE == {"attention", "attention_grad"}
    assert every - floor - texts.keys() - ELSEWHERE == {"matmul_sm90", "attention_sm90", "attention_grad_sm90"}
    compile_unit(unit_of(tmp_path, dict(texts[template] for template in sorted(here))), "sm_90a")


def unit_of(folder: Path, texts: dict[str, str]) -> Path:
    """A folder of kernels, as an artefact has them."""
    files = cuda_headers() | {f"kernels/{name}.cu": text for name, text in texts.items()}
    files["programs/kernels.cu"] = render("cuda/program/kernels.cu", kernels=sorted(texts))
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def compile_unit(folder: Path, arch: str = "sm_80") -> None:
    """All kernels of a folder, without a warning."""
    flags = [*describe_cuda("nvcc", arch).flags, *STRICT, "-Iinclude", "-c", "programs/kernels.cu", "-o", os.devnull]
    done = subprocess.run(["nvcc", *flags], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def templates_of(compiled: Compiled) -> dict[str, set[str]]:
    """Stems of kernels, and the templates that they were made from."""
    found: dict[str, set[str]] = {}
    for path in sorted((compiled.artefact.folder / "kernels").glob("*.cu")):
        template = re.search(r"template +templates/cuda/(\w+)\.cu\.j2", path.read_text())
        assert template
        found.setdefault(path.stem.split("_")[0], set()).add(template[1])
    return found


def test_slower_kernels_are_told(tmp_path: Path) -> None:
    """No tensor core takes heads of 8 elements."""
    request = Request(TINY, Options(target="cuda", precision="bf16", march="sm_90a"), ("dims.H=4",))
    compiled = compile_model(request, tmp_path, Cache(tmp_path / "cache"))
    slower = compiled.summary["slower"]
    assert any("they do not take heads of" in why for why in slower.values()), slower
    for kernel, why in slower.items():
        assert f"//   because   {why}" in (compiled.artefact.folder / "kernels" / f"{kernel}.cu").read_text()


def test_tensor_cores_are_chosen(nano: Callable[[str], Compiled]) -> None:
    """Every product and attention of the shipped model in bf16, each architecture by its own kernels."""
    floor, hopper = templates_of(nano("sm_80")), templates_of(nano("sm_90a"))
    assert floor["gemm"] == {"matmul"}
    assert floor["attention"] == {"attention", "attention_grad"}
    assert hopper["gemm"] == {"matmul_sm90"}
    assert hopper["attention"] == {"attention_sm90", "attention_grad_sm90"}


def test_lines_are_short(nano: Callable[[str], Compiled]) -> None:
    for arch in ("sm_80", "sm_90a"):
        folder = nano(arch).artefact.folder
        for path in (*folder.rglob("*.cu"), *folder.rglob("*.cuh"), *folder.glob("programs/*.c")):
            assert not untidy(path.read_text()), path


@needs_nvcc
def test_unknown_architecture() -> None:
    with pytest.raises(InputError, match="knows no architecture 'sm_12345'") as caught:
        describe_cuda("nvcc", "sm_12345")
    assert "sm_90" in (caught.value.diagnostics[0].hint or "")


def test_missing_compiler() -> None:
    with pytest.raises(ToolMissing, match="no CUDA compiler: 'no-nvcc-here'"):
        describe_cuda("no-nvcc-here", "sm_80")


def test_nothing_is_atomic_and_all_is_checked() -> None:
    """Sums have one order, and no launch goes unnoticed."""
    for name, text in kernels().items():
        assert not re.search(r"atomic[A-Z]", text), name
        assert f'gptc_check("{name}");' in text
        assert "gptc_stream>>>" in text
        assert len(max(text.splitlines(), key=len)) <= 160


def test_every_kernel_of_c_has_one_for_cuda() -> None:
    """Equal base names, but for those that say which type they compute in."""
    ours = {path.name.split(".")[0].removesuffix("_f32") for path in (template_dir() / "cuda").glob("*.cu.j2")}
    templates = (template_dir() / "c").glob("*.c.j2")
    theirs = {path.name.split(".")[0] for path in templates if '{% extends "c/kernel.c.j2" %}' in path.read_text()}
    assert "matmul" in theirs
    assert theirs <= ours
    for path in sorted((template_dir() / "cuda").rglob("*_f32.cu.j2")):
        assert contract(f"cuda/{path.name.removesuffix('.j2')}").args
