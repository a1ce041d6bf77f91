"""The targets: what the compiler offers for the machine asked for, and the flags without which kernels go wrong."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache

from gptc.codegen.instructions import INSTRUCTION_SETS, InstructionSet, choose, features
from gptc.errors import Diagnostic, GptcError, InputError, ToolMissing, did_you_mean
from gptc.options import Options
from gptc.resources import find_nvcc

FLAGS = ("-std=gnu11", "-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
"""Flags that decide what kernels compute or whether their loops become vector code.

`-fno-math-errno -fno-trapping-math` change no value but let roots and selections vectorise.  Contraction is part of
the meaning.  `-ffast-math` would cancel the rounding steps of `gptc_exp` and give wrong numbers.
"""
AMX = ({"__AMX_TILE__", "__AMX_BF16__"}, {"__AMXTILE__", "__AMXBF16__"})
"""What compilers predefine where there are matrix registers that multiply bf16; the latter did clang at first."""
WIDE = "-mprefer-vector-width=512"

CUDA_FLAGS = ("-O3", "-Xcompiler=-fPIC", "-cudart=static")
"""Contraction, and division and roots that round correctly, are what nvcc does unless told otherwise."""
CUDA_SHARED = {"sm_90": 227 << 10, "sm_100": 227 << 10, "sm_103": 227 << 10}
CUDA_SHARED_LEAST = 99 << 10
"""Of an architecture that is not listed, whose code may run on any later one."""
CUDA_FLOOR = 80
"""The oldest architecture that kernels are written for; its code runs on later ones."""
FLOOR = f"sm_{CUDA_FLOOR}"
CUDA_RELEASE = (12, 5)
"""The first CUDA toolkit whose runtime has all that the emitted code calls (cudaGetDriverEntryPointByVersion)."""


@dataclass(frozen=True)
class Target:
    """A compiler and the instruction set it is asked for."""

    name: str
    compiler: str
    march: str
    flags: tuple[str, ...]
    bf16: bool
    """Whether it multiplies bf16 (AVX512_BF16)."""
    amx: bool = False
    """Whether it has matrix registers for that (AMX), and a system that gives them to a process."""
    cpu: InstructionSet | None = None
    """None for a GPU."""
    features: tuple[str, ...] = ()
    """What the processor must have, as `__builtin_cpu_supports` spells it."""
    suffix: str = "c"
    """Of a kernel's source."""
    libs: tuple[str, ...] = ("-lm",)
    shared: int = 0
    """Bytes of shared memory that a block of a GPU may have."""
    note: str = ""
    """Why the code is not for the GPU of this machine, where it was to be."""

    def template(self, base: str) -> str:
        """The name of a kernel's template without `.j2`, `row` -> `c/row.c`."""
        return f"{self.name}/{base}.{self.suffix}"

    @property
    def instructions(self) -> InstructionSet:
        """Those of a target that is a CPU."""
        assert self.cpu is not None
        return self.cpu

    @property
    def overlaps(self) -> bool:
        """Whether a kernel of a GPU may begin while the one before it still runs."""
        return self.cpu is None and int(re.sub(r"\D", "", self.march)) >= 90

    def __str__(self) -> str:
        """`AVX-512 (cc -march=native), vectors of 16 floats, bf16 instructions, AMX`."""
        if self.cpu is None:
            return f"CUDA ({self.compiler}, {self.march})"
        bf16 = ", bf16 instructions" * self.bf16 + ", AMX" * self.amx
        return f"{self.cpu.name} ({self.compiler} -march={self.march}), vectors of {self.cpu.vector} floats{bf16}"


def target_for(options: Options) -> Target:
    """The target that `options` ask for; InputError or ToolMissing where it cannot be had."""
    cuda = options.target == "cuda"
    compiler = cuda_compiler() if cuda else options.compiler
    target = describe_cuda(compiler, options.march) if cuda else describe(compiler, options.march)
    if options.precision == "int8" and (cuda or options.mode == "train"):
        message = "target cuda has no kernels for weights in 8 bits" if cuda else "weights in 8 bits cannot be trained"
        raise InputError.of(message, None, "use --precision f32" if cuda else "int8 is for inference")
    if options.precision == "f16" and not cuda:
        raise InputError.of("target c has no kernels for f16", None, "use --precision bf16, or --target cuda")
    if options.precision == "bf16" and not target.bf16:
        message = f"-march={options.march} has no instruction that multiplies bf16 (AVX512_BF16)"
        raise InputError.of(message, None, "use --precision f32")
    return target


def cuda_compiler() -> str:
    """The CUDA compiler: `nvcc`, or what the variable NVCC names."""
    return os.environ.get("NVCC", "nvcc")


@cache
def describe_cuda(compiler: str, march: str) -> Target:
    """Ask nvcc once whether it knows the architecture `march`, such as sm_90a; `native` is that of the GPU here."""
    path = find_nvcc(compiler)
    if path is None:
        hint = "install NVIDIA's CUDA toolkit, or name its compiler with the variable NVCC"
        raise ToolMissing.of(f"no CUDA compiler: {compiler!r} was not found", None, hint)
    _check_release(compiler, path)
    arch, note = _native(compiler, path) if march == "native" else (march, "")
    number = re.fullmatch(r"sm_(\d+)[a-z]?", arch)
    if number and int(number[1]) < CUDA_FLOOR:
        raise _too_old(arch)
    if complaint := _refusal(path, arch) if number else "no architecture":
        raise _unknown_architecture(compiler, path, march, complaint)
    shared = CUDA_SHARED.get(arch.rstrip("af"), CUDA_SHARED_LEAST)
    return Target("cuda", compiler, arch, (*CUDA_FLAGS, _code(arch)), True, suffix="cu", shared=shared, note=note)


def _check_release(compiler: str, path: str) -> None:
    """The compiler answers, and is not too old."""
    release = re.search(r"release (\d+)\.(\d+)", _output([path, "--version"]) or "")
    if release is None:
        raise ToolMissing.of(f"{compiler!r} is no working CUDA compiler", None, "install NVIDIA's CUDA toolkit")
    if (int(release[1]), int(release[2])) < CUDA_RELEASE:
        oldest = ".".join(map(str, CUDA_RELEASE))
        message = f"{compiler} is of CUDA {release[1]}.{release[2]}; the emitted code needs {oldest} or later"
        raise ToolMissing.of(message, None, "install a newer CUDA toolkit, or name its nvcc with the variable NVCC")


def _native(compiler: str, path: str) -> tuple[str, str]:
    """The architecture of this machine's first GPU; the floor, and why, where that cannot be."""
    said = _output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]) or ""
    match = re.match(r"(\d+)\.(\d)", said)
    if match is None:
        return FLOOR, f"no GPU here that nvidia-smi knows: the code is for {FLOOR}, which later ones run too"
    number = int(match[1] + match[2])
    # Hopper's matrix unit is in no other architecture, which the letter promises.
    arch = "sm_90a" if number == 90 else f"sm_{number}"
    if number >= CUDA_FLOOR and _refusal(path, arch):
        return FLOOR, f"{compiler} is too old for this GPU, {arch}: the code is for {FLOOR}, which it runs too, slower"
    return arch, ""


def _too_old(arch: str) -> InputError:
    message = f"kernels are written for {FLOOR} and later, not for {arch}"
    return InputError((Diagnostic(message, None, "compile the model with --target c"),))


def _unknown_architecture(compiler: str, path: str, march: str, complaint: str) -> GptcError:
    """What to say where nvcc refuses to compile for an architecture."""
    if "architecture" not in complaint:  # it would for any: there is no C++ compiler that it takes, say
        hint = "nvcc needs a C++ compiler; the variable NVCC_CCBIN names one"
        return ToolMissing.of(f"{compiler} does not work: {complaint}", None, hint)
    numbers = re.findall(r"sm_(\d+)", _output([path, "--list-gpu-code"]) or "")
    listed = ", ".join(f"sm_{n}" for n in numbers if int(n) >= CUDA_FLOOR).replace("sm_90", "sm_90, sm_90a")
    return InputError.of(f"{compiler} knows no architecture {march!r}", None, f"of {FLOOR} and later it knows {listed}")


def _code(arch: str) -> str:
    """The flag for machine code of an architecture, and PTX for later ones."""
    virtual = arch.replace("sm_", "compute_")
    return f"-gencode=arch={virtual},code=[{arch},{virtual}]"


def _refusal(path: str, arch: str) -> str:
    """What nvcc says against an architecture, asked what it would do (its list leaves out variants such as sm_90a);
    empty where it would compile."""
    argv = [path, "--dryrun", _code(arch), "-x", "cu", "-c", os.devnull, "-o", os.devnull]
    if _output(argv) is not None:
        return ""
    lines = (_output(argv, stderr=True) or "").split("\n")
    fatal = [line for line in lines if "fatal" in line]
    return re.sub(r"nvcc (fatal|error)\s*:\s*", "", fatal[-1]) if fatal else "it tells no reason"


@cache
def describe(compiler: str, march: str) -> Target:
    """Ask the compiler once what vectors and instructions `-march=MARCH` has."""
    macros = _macros(compiler, f"-march={march}") if re.fullmatch(r"\w[\w.+-]*", march) else None
    if macros is None:
        if _macros(compiler) is None:
            raise ToolMissing.of(f"{compiler!r} is no working C compiler", None, "install gcc or clang")
        raise _unknown(compiler, march)
    cpu = choose(macros)
    if cpu is None:
        known = ", ".join(each.name for each in INSTRUCTION_SETS)
        raise InputError.of(f"-march={march} has no vector instructions that gptc knows", None, f"it knows {known}")
    flags = [*FLAGS, f"-march={march}"]
    if cpu.vector == 16 and _macros(compiler, f"-march={march}", WIDE) is not None:
        flags.append(WIDE)
    bf16 = cpu.vector == 16 and "__AVX512BF16__" in macros
    amx = bf16 and "__linux__" in macros and any(names <= macros for names in AMX)
    return Target("c", compiler, march, tuple(flags), bf16, amx, cpu, features(macros))


def _unknown(compiler: str, march: str) -> InputError:
    """What to say of an instruction set that the compiler refuses: what it knows, and gptc's names for some of it."""
    sets = [f"{s.march} ({s.name})" for s in INSTRUCTION_SETS if _macros(compiler, f"-march={s.march}") is not None]
    listed = [*sets, "native (this machine's)"] if _macros(compiler, "-march=native") is not None else sets
    # gcc and clang list what they know, under different words, when asked for what cannot be.
    said = _output([*shlex.split(compiler), "-march=?", "-x", "c", "-fsyntax-only", os.devnull], stderr=True) or ""
    names = re.search(r"valid (?:arguments|target CPU values)[^:]* are: ([^;\n]*)", said)
    others = names[1].replace(",", " ").split() if names else []
    notes = [f"instruction sets: {', '.join(listed)}"]
    if others:
        notes.append(f"processors and others: {' '.join(others)}")
    hint = did_you_mean(march, others) or "for another architecture, name its compiler with --compiler"
    return InputError((Diagnostic(f"{compiler} knows no instruction set {march!r}", None, hint, tuple(notes)),))


def _macros(compiler: str, *flags: str) -> frozenset[str] | None:
    """Names that the compiler predefines under `flags`; None if it refuses them."""
    try:
        argv = [*shlex.split(compiler), *flags, "-dM", "-E", "-"]
    except ValueError:
        return None
    text = _output(argv)
    if text is None:
        return None
    return frozenset(line.split()[1].split("(")[0] for line in text.splitlines() if line.startswith("#define "))


def _output(argv: list[str], stderr: bool = False) -> str | None:
    """What a command prints; None if it fails.  With `stderr` what it complains of, which is for it to fail."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False, env=environment
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if stderr:
        return done.stderr
    return done.stdout if done.returncode == 0 else None
