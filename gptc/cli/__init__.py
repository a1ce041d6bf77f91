"""The command line.  One command a file; this one puts them together.

Imports here are what `gptc --help` waits for: typer and nothing else.  A command imports what it needs when it runs.
"""

from __future__ import annotations

import typer

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

app = typer.Typer(
    name="gptc",
    help="Compile a GPT described in YAML to readable C, train it, and let it write.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
shows = typer.Typer(help="Show what the compiler makes of a model.", no_args_is_help=True)
benches = typer.Typer(help="Measure a model beside what this machine can do.", no_args_is_help=True)
datas = typer.Typer(help="Make text ready for training.", no_args_is_help=True)
caches = typer.Typer(help="Look after the cache of compiled code.", no_args_is_help=True)

app.command("compile")(guarded(compile.compile_))
app.command("train")(guarded(train.train))
app.command("generate")(guarded(generate.generate))
app.add_typer(shows, name="show")
for name, view in show.VIEWS.items():
    shows.command(name)(guarded(view))
app.add_typer(benches, name="bench")
for name, measure in bench.BENCHES.items():
    benches.command(name)(guarded(measure))
app.command("tune")(guarded(tune.tune))
app.command("diff")(guarded(diff.diff))
app.command("opt")(guarded(opt.opt))
app.command("schema")(guarded(schema.schema))
app.command("doctor")(guarded(doctor.doctor))
app.command("checkpoints")(guarded(checkpoints.checkpoints))
app.command("report")(guarded(report.report))
app.command("import")(guarded(interop.import_))
app.command("export")(guarded(interop.export))
app.add_typer(datas, name="data")
for name, action in data.ACTIONS.items():
    datas.command(name)(guarded(action))
app.add_typer(caches, name="cache")
for name, action in cache.ACTIONS.items():
    caches.command(name)(guarded(action))


def main() -> None:
    """The entry point.  Exit codes: 0 fine, 1 input, 2 usage, 3 a tool is missing, 4 numerics, 5 I/O, 70 a bug."""
    app()
