"""`gptc doctor`: is everything here that gptc needs?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from gptc.cli.flags import Json

if TYPE_CHECKING:
    from gptc.errors import GptcError


ENCODINGS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
"""Where tiktoken fetches gpt2's files from; it keeps each under the SHA-1 of its address."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.  Not `needed`: gptc works without it."""

    what: str
    ok: bool
    detail: str
    needed: bool = True


def doctor(
    compiler: Annotated[str, typer.Option("--compiler", envvar="CC", help="C compiler.")] = "cc",
    march: Annotated[str, typer.Option("--march", help="Instruction set, as the C compiler spells it.")] = "native",
    json: Json = False,
) -> None:
    """Look for all that gptc needs, and say what is missing and how to get it."""
    from dataclasses import asdict

    from gptc.cli.output import Output
    from gptc.errors import ToolMissing

    output = Output(json)
    findings = [_python(), _compiler(compiler, march), _openmp(compiler), _cache(), _tokenizer(), _nvcc(), _gpu()]
    marks = {True: "ok", False: "missing"}
    rows = [(f.what, marks[f.ok] if f.needed or f.ok else "not here", f.detail) for f in findings]
    output.table("", ("", "", ""), rows)
    bad = [f for f in findings if f.needed and not f.ok]
    output.line("something is missing" if bad else "all is well")
    code = ToolMissing.code if bad else 0
    output.result({"findings": [asdict(f) for f in findings]}, code)
    raise typer.Exit(code)


def _python() -> Finding:
    import platform

    import gptc

    return Finding("gptc", True, f"{gptc.__version__}, Python {platform.python_version()}, {platform.machine()}")


def _compiler(compiler: str, march: str) -> Finding:
    from gptc.codegen.target import describe
    from gptc.errors import GptcError

    try:
        target = describe(compiler, march)
    except GptcError as error:
        return Finding("C compiler", False, _told(error))
    return Finding("C compiler", True, str(target))


def _openmp(compiler: str) -> Finding:
    """Compile and link a program that needs OpenMP's headers and library."""
    import shlex
    import subprocess
    import tempfile
    from pathlib import Path

    source = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "openmp.c"
        path.write_text(source)
        argv = [*shlex.split(compiler), "-fopenmp", str(path), "-o", str(path.with_suffix(""))]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Finding("OpenMP", False, str(error))
    lines = done.stderr.strip().splitlines()
    return Finding("OpenMP", done.returncode == 0, lines[0] if lines and done.returncode else "compiles and links")


def _cache() -> Finding:
    from gptc.cli.output import size
    from gptc.errors import GptcError
    from gptc.runtime.cache import Cache

    try:
        stats = Cache().stats()
    except GptcError as error:
        return Finding("cache", False, error.diagnostics[0].message)
    return Finding("cache", True, f"{stats.root}, {stats.entries} entries, {size(stats.bytes)}")


def _tokenizer() -> Finding:
    """The vocabulary of gpt2, looked for where tiktoken keeps it: looking must not go to the network."""
    import hashlib
    import os
    import tempfile
    from pathlib import Path

    variables = ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")
    named = next((os.environ[name] for name in variables if os.environ.get(name)), None)
    folder = Path(named) if named else Path(tempfile.gettempdir()) / "data-gym-cache"
    names = (hashlib.sha1(f"{ENCODINGS}/{file}".encode()).hexdigest() for file in ("vocab.bpe", "encoder.json"))
    found = all((folder / name).is_file() for name in names)
    detail = f"vocabulary in {folder}" if found else f"no vocabulary in {folder}: it is fetched on first use"
    return Finding("tokenizer gpt2", found, detail, needed=False)


def _nvcc() -> Finding:
    """The CUDA compiler, and what it would be asked for."""
    from gptc.codegen.target import cuda_compiler, describe_cuda
    from gptc.errors import GptcError

    try:
        target = describe_cuda(cuda_compiler(), "native")
    except GptcError as error:
        return Finding("CUDA compiler", False, _told(error), needed=False)
    return Finding("CUDA compiler", True, f"{target.compiler}, for {target.march}", needed=False)


def _gpu() -> Finding:
    from gptc.errors import GptcError
    from gptc.runtime.device import this_gpu

    try:
        gpu = this_gpu()
    except GptcError as error:
        return Finding("GPU", False, _told(error), needed=False)
    memory = f"{gpu.free / 2**30:,.1f} of {gpu.total / 2**30:,.1f} GiB free"
    return Finding("GPU", True, f"{gpu.name}, sm_{gpu.capability}, {memory}", needed=False)


def _told(error: GptcError) -> str:
    return "; ".join(d.message + (f" ({d.hint})" if d.hint else "") for d in error.diagnostics)
