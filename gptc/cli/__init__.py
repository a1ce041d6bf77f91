"""The command line.  One command a file; this one puts them together.

Imports here are what `gptc --help` waits for: typer and nothing else.  A command imports what it needs when it runs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import gptc
from gptc.cli import (
    bench,
    cache,
    checkpoints,
    compile,
    data,
    diff,
    doctor,
    generate,
    interop,
    opt,
    report,
    schema,
    show,
    train,
    tune,
)
from gptc.cli.failure import guarded
from gptc.cli.flags import name_values

EXIT_CODES = (
    "Exit codes: 0 done, 1 the input is wrong, 2 usage, 3 a tool is missing, 4 numbers are wrong, 5 reading or writing "
    "failed, 70 a bug in gptc, 130 and 143 stopped by a signal, with a checkpoint."
)

Commands = Mapping[str, Callable[..., None]]
COMMANDS: Commands = {
    "compile": compile.compile_,
    "train": train.train,
    "generate": generate.generate,
    "tune": tune.tune,
    "diff": diff.diff,
    "opt": opt.opt,
    "schema": schema.schema,
    "doctor": doctor.doctor,
    "checkpoints": checkpoints.checkpoints,
    "report": report.report,
    "import": interop.import_,
    "export": interop.export,
}
GROUPS: Mapping[str, tuple[str, Commands]] = {
    "show": ("Show what the compiler makes of a model.", show.VIEWS),
    "bench": ("Measure a model beside what this machine can do.", bench.BENCHES),
    "data": ("Make text ready for training.", data.ACTIONS),
    "cache": ("Look after the cache of compiled code.", cache.ACTIONS),
}
EXAMPLES = {
    "compile": "gptc compile gpt2-124m --target cuda --precision bf16",
    "train": "gptc train gpt2-124m --data data/tinyshakespeare --save-every 500 --resume auto",
    "generate": "gptc generate gpt2-nano --prompt 'def ' --tokens 300 --temperature 0.7",
    "tune": "gptc tune gpt2-nano --seconds 120",
    "diff": "gptc diff gpt2-nano --precision bf16",
    "opt": "gptc opt step.gir --passes 'simplify,layout,lower,fuse{max_operands=8}' --out fused.gir",
    "report": "gptc report runs/first runs/second --out both.html",
    "import": "gptc import gpt2_124M.bin weights.safetensors",
    "export": "gptc export runs/gpt2-124m/weights.safetensors gpt2 --to hf",
    "show graph": "gptc show graph gpt2-nano --stop-after differentiate",
    "show plan": "gptc show plan gpt2-124m --program step",
    "show kernel": "gptc show kernel gpt2-nano row_layer_norm",
    "bench kernels": "gptc bench kernels gpt2-nano --repeats 20",
    "bench decode": "gptc bench decode gpt2-124m --precision int8",
    "data prepare": "gptc data prepare --recipe tinyshakespeare",
    "data train-bpe": "gptc data train-bpe corpus.txt --vocab 8192 --out corpus.tiktoken",
}
"""Command -> a use of it, at the end of its help."""


def main() -> None:
    """The entry point."""
    try:
        app()
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # while Python ends, a traceback would tell nothing


class Helping:
    """A command whose help shows `--help` without a value."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option:
            option.metavar = ""
        return option


class Command(Helping, TyperCommand):
    """One command."""


class Group(Helping, TyperGroup):
    """Several under one name."""


def _version(asked: bool) -> None:
    if asked:
        print(f"gptc {gptc.__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True, metavar="")
    ] = False,
) -> None:
    """Flags of `gptc` itself."""


def _app(help_text: str, commands: Commands, group: str = "", epilog: str | None = None) -> typer.Typer:
    """A group of commands; `group` and a space stand before their names in EXAMPLES."""
    made = typer.Typer(
        cls=Group, help=help_text, epilog=epilog, no_args_is_help=True, add_completion=False,
        pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip
    for name, command in commands.items():
        example = EXAMPLES.get(group + name)
        enter = made.command(name, cls=Command, epilog=f"Example: {example}" if example else None)
        enter(guarded(name_values(command)))
    return made


app = _app(
    "Compile a GPT described in YAML to readable C or CUDA, train it, and let it write.", COMMANDS, "", EXIT_CODES
)
app.callback()(_root)
for name, (help_text, commands) in GROUPS.items():
    app.add_typer(_app(help_text, commands, f"{name} "), name=name)
