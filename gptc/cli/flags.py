"""Flags that several commands share: each is declared once, so it means the same everywhere."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

if TYPE_CHECKING:
    from gptc.request import Request

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else goes to stderr.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="Text, token shards, or a folder of them (default: Python's library).")
]
TokenizerName = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="How text becomes tokens: bytes, gpt2 or another of tiktoken, or a file (default: the model's).",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads to use (default: all); results are the same.")
]
Plain = Annotated[
    bool, typer.Option("--plain-launches", help="On a GPU, launch and await kernels one by one, to find faults.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the random numbers.")]
Program = Annotated[str | None, typer.Option("--program", help="step, evaluate, logits, ... (default: all).")]


PANEL = "How the model is compiled"
VALUES = {bool: "", int: "N", float: "X", Path: "PATH", str: "TEXT"}
"""What help calls the value of a flag of a type."""


def name_values(command: Callable[..., None]) -> Callable[..., None]:
    """Have help show short names for the values of a command's flags, or the words to choose from."""
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if name in command.__annotations__:  # text until now
            command.__annotations__[name] = parameter.annotation
        kind, *notes = get_args(parameter.annotation)
        inner = [part for each in (kind, *get_args(kind)) for part in (each, *get_args(each))]  # of `list[X] | None`
        for note in notes:
            if isinstance(note, OptionInfo) and note.metavar is None:
                note.metavar = getattr(note.parser, "__name__", None) or next(VALUES[t] for t in inner if t in VALUES)
            elif isinstance(note, ArgumentInfo) and note.metavar is None:
                note.metavar = name.upper()
    return command


def choice(*allowed: str) -> Callable[[str], str]:
    """A parser that accepts one of a few words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(allowed)}")
        return text

    parse.__name__ = "|".join(allowed)
    return parse


def _option(kind: Any, name: str, text: str, default: Any = None, **more: Any) -> tuple[Any, Any]:
    return Annotated[kind, typer.Option(name, help=text, rich_help_panel=PANEL, **more)], default


def _remat(text: str) -> str:
    """The level, a budget's size in bytes."""
    import re

    if re.fullmatch(r"none|cheap|block(:[0-9]+)?", text):
        return text
    if budget := re.fullmatch(r"budget=([0-9]+(?:\.[0-9]+)?)([kMGT]?i?)B", text):
        factors = {"": 1, **{unit: 1000**n for n, unit in enumerate(("k", "M", "G", "T"), 1)}}
        factors |= {f"{unit}i": 1024**n for n, unit in enumerate(("k", "M", "G", "T"), 1)}
        if budget[2] in factors:
            return f"budget={int(float(budget[1]) * factors[budget[2]])}"
    raise typer.BadParameter(f"{text!r} is not one of none, cheap, block, block:N, budget=SIZE (as 6GB or 512MiB)")


COMPILE: dict[str, tuple[Any, Any]] = {
    "batch": _option(int | None, "--batch", "Sequences in a micro-step (default: the model's).", min=1),
    "seq": _option(int | None, "--seq", "Positions in a sequence (default: the model's; to write, those learned).",
                   min=1),
    "micro_steps": _option(int | None, "--micro-steps", "Micro-steps in a step (default: the model's).", min=1),
    "total_batch": _option(int | None, "--total-batch", "Tokens in a step, which decide its micro-steps.", min=1),
    "overrides": _option(list[str] | None, "--set", "Override a value of the model, as train.lr=3e-4.",
                         metavar="KEY=VALUE"),
    "target": _option(str, "--target", "c: C11 and OpenMP; cuda: CUDA C++; auto: cuda where it can run, else c.", "c",
                      parser=choice("c", "cuda", "auto")),
    "march": _option(str, "--march", "Instruction set, as the compiler spells it.", "native"),
    "compiler": _option(str, "--compiler", "C compiler.", "cc", envvar="CC"),
    "precision": _option(str, "--precision", "Of products; inference also keeps weights in it, int8 only there.", "f32",
                         parser=choice("f32", "bf16", "f16", "int8")),
    "remat": _option(str, "--remat", "Computed again, not kept: none, cheap, block, block:N or budget=SIZE.", "none",
                     parser=_remat, metavar="LEVEL"),
    "plan": _option(str, "--plan", "best: share memory. naive: a place for each tensor.", "best",
                    parser=choice("best", "naive")),
    "no_fuse": _option(bool, "--no-fuse", "One kernel for each operation.", False),
    "no_recognise": _option(bool, "--no-recognise", "Keep the model's own operations, as softmax of a product.", False),
    "no_tune": _option(bool, "--no-tune", "Do without what gptc tune has found.", False),
    "out": _option(Path, "--out", "Folder for artefacts.", Path("build")),
}  # fmt: skip
"""Flag -> its annotation and default."""
TRAINING = ("micro_steps", "total_batch", "remat")
"""Those that mean something to training alone."""


MODEL = "Model file (YAML), or the name of a model that comes with gptc."


@dataclass(frozen=True)
class Job:
    """What is compiled, and where to."""

    request: Request
    out: Path
    chosen: str = ""
    """Why this target, where that was left to gptc."""


def compiles(
    mode: str | None = "train", without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the argument `MODEL` and the flags of `COMPILE`; it receives them as its argument `job`.

    An argument that is a dataclass stands for a flag for each of its fields.  `mode` None adds the flag `--mode`.
    The command has no flags that are `without` meaning for it.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "job"]
        groups: dict[str, Any] = {p.name: p.annotation for p in own if is_dataclass(p.annotation)}

        @functools.wraps(command)
        def run(model: Path, **flags: Any) -> None:
            chosen = {name: flags.pop(name, default) for name, (_, default) in COMPILE.items()}
            job = _job(model, mode or flags.pop("mode"), **chosen)
            grouped = {n: group(**{f.name: flags.pop(f.name) for f in fields(group)}) for n, group in groups.items()}
            command(job=job, **grouped, **flags)

        path = Annotated[Path, typer.Argument(metavar="MODEL", help=MODEL, show_default=False)]
        shared = {name: flag for name, flag in COMPILE.items() if name not in without}
        if mode is None:
            shared["mode"] = _option(str, "--mode", "train or infer.", "train", parser=choice("train", "infer"))
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=path),
            *(parameter for group in groups.values() for parameter in _parameters(group)),
            *(p.replace(kind=keyword) for p in own if p.name not in groups),
            *(inspect.Parameter(n, keyword, default=default, annotation=a) for n, (a, default) in shared.items()),
        ]
        run.__dict__.pop("__wrapped__")  # typer shall see these parameters, not those of `command`
        run.__dict__["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {}
        return run

    return decorate


def _parameters(group: Any) -> Iterator[inspect.Parameter]:
    """The fields of a dataclass as keyword arguments."""
    kinds = get_type_hints(group, include_extras=True)
    for each in fields(group):
        keyword = inspect.Parameter.KEYWORD_ONLY
        yield inspect.Parameter(each.name, keyword, default=each.default, annotation=kinds[each.name])


def _job(model: Path, mode: str, **flags: Any) -> Job:
    from gptc.errors import UsageError
    from gptc.options import Options
    from gptc.request import Request

    for name in TRAINING if mode == "infer" else ():
        if flags[name] != COMPILE[name][1]:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError.of(f"{flag} would do nothing here", None, "it is for training, not for --mode infer")
    target, chosen = auto_target(flags["precision"]) if flags["target"] == "auto" else (flags["target"], "")
    options = Options(
        target=target, mode=mode, precision=flags["precision"], recognise=not flags["no_recognise"],
        fuse=not flags["no_fuse"], remat=flags["remat"], plan=flags["plan"], tune=not flags["no_tune"],
        march=flags["march"], compiler=flags["compiler"],
    )  # fmt: skip
    sizes = (flags["batch"], flags["seq"], flags["micro_steps"], flags["total_batch"])
    return Job(Request(model_file(model), options, tuple(flags["overrides"] or ()), *sizes), flags["out"], chosen)


def auto_target(precision: str) -> tuple[str, str]:
    """The target that can run here, and why."""
    from gptc.codegen.target import cuda_compiler, describe_cuda
    from gptc.errors import GptcError
    from gptc.runtime.device import this_gpu

    if precision == "int8":
        return "c", "target c: weights in 8 bits are for CPUs"
    found = ""
    try:
        gpu = this_gpu()
        found = f"there is a GPU, {gpu.name}, but "
        describe_cuda(cuda_compiler(), "native")
    except GptcError as error:
        return "c", f"target c: {found}{error.diagnostics[0].message}"
    return "cuda", f"target cuda: {gpu.name}, sm_{gpu.capability}, {gpu.free / 2**30:,.1f} GiB free"


def model_file(model: Path) -> Path:
    """The file itself, or the shipped model of that name."""
    from gptc.errors import InputError, did_you_mean
    from gptc.resources import models_dir

    if model.name != str(model) or model.suffix in (".yaml", ".yml") or model.exists():
        return model
    shipped = {path.stem: path for path in sorted(models_dir().glob("*.yaml"))}
    if model.name not in shipped:
        hint = did_you_mean(model.name, shipped) or f"models that come with gptc: {', '.join(shipped)}"
        raise InputError.of(f"no model file {str(model)!r}, and none of that name comes with gptc", None, hint)
    return shipped[model.name]
