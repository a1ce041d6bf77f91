"""`gptc train`: compile, build, train, and keep the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptc.cli.flags import Data, Job, Json, Seed, Threads, TokenizerName, compiles

if TYPE_CHECKING:
    from gptc.cli.output import Output
    from gptc.compiler import Compiled
    from gptc.runtime.data import Data as Corpus
    from gptc.runtime.history import History
    from gptc.runtime.interrupt import Interrupt
    from gptc.runtime.model import Model
    from gptc.runtime.resume import Start
    from gptc.runtime.train import Summary, TrainSettings

WEIGHTS = "weights.safetensors"
LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"
DEFAULT_DATA = "the Python standard library"
NOTICE = "\nstopping: a checkpoint is written first; a second signal ends this at once\n"


@compiles("train")
def train(
    job: Job,
    data: Data = None,
    val_data: Annotated[Path | None, typer.Option(help="What to validate on (default: a part of the data).")] = None,
    tokenizer: TokenizerName = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates to make (default: the model's).")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate (default: the model's).")] = None,
    val_every: Annotated[int, typer.Option(min=0, help="Steps between validations; 0: only at the end.")] = 50,
    val_batches: Annotated[int, typer.Option(min=1, help="Batches of a validation, at most.")] = 20,
    run: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/MODEL).")] = None,
    weights: Annotated[Path | None, typer.Option(help="Begin with these weights (default: random ones).")] = None,
    save_every: Annotated[int, typer.Option(min=0, help="Steps between checkpoints; 0: only when stopped.")] = 0,
    keep_last: Annotated[int, typer.Option(min=0, help="Keep so many of the newest checkpoints; 0: all.")] = 3,
    keep_every: Annotated[int, typer.Option(min=0, help="Also keep those of every so many steps.")] = 0,
    resume: Annotated[str | None, typer.Option(help="Go on from a checkpoint: auto, STEP or a folder.")] = None,
    allow_change: Annotated[
        str, typer.Option(metavar="NAMES", help="Settings that may differ from the checkpoint's; or all.")
    ] = "",
    threads: Threads = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Train a model and save its weights.  SIGINT and SIGTERM end it with a checkpoint."""
    from gptc.cli.compile import compile_and_build
    from gptc.cli.output import Output
    from gptc.runtime.data import open_data
    from gptc.runtime.history import History
    from gptc.runtime.init import SEED
    from gptc.runtime.interrupt import Interrupt
    from gptc.runtime.model import load_model
    from gptc.runtime.resume import Start
    from gptc.runtime.train import TrainSettings, schedule_of

    output = Output(json)
    start = Start(resume, frozenset(allow_change.split(",")), weights, SEED if seed is None else seed)
    with Interrupt(NOTICE) as interrupt:
        with interrupt.breakable():
            compiled, built = compile_and_build(job, output)
            assert built is not None
            manifest = compiled.artefact.manifest
            folder = run or Path("runs") / manifest.model
            count = steps or compiled.summary["train"]["steps"]
            settings = TrainSettings(count, lr, eval_every=val_every, eval_batches=val_batches, save=folder / WEIGHTS)
            dims = manifest.dims
            corpus = open_data(data, tokenizer or manifest.tokenizer, dims["B"], dims["T"], dims["V"], val=val_data)
            model = load_model(compiled.artefact, built.library, threads)
            schedule_of(model, settings)  # a rate that cannot be is told before anything is written
            _make(folder)
        told = {name: value for name, value in {"steps": steps, "lr": lr}.items() if value is not None}
        output.table("settings", ("setting", "value", "from"), _settings(compiled, told, corpus.source))
        decisive = _decisive(compiled, job, settings, corpus.source, tokenizer, start.seed)
        history = History(folder / CHECKPOINTS, keep_last, keep_every)
        summary = _run(model, corpus, settings, start, history, decisive, save_every, interrupt, output)
    _conclude(summary, folder, compiled, output)


def _run(
    model: Model, corpus: Corpus, settings: TrainSettings, start: Start, history: History,
    decisive: dict[str, Any], save_every: int, interrupt: Interrupt, output: Output,
) -> Summary:  # fmt: skip
    """Train, as the only process that writes into the folder of checkpoints."""
    from gptc.cli.events import Reporter
    from gptc.runtime.resume import begin
    from gptc.runtime.saver import Saver
    from gptc.runtime.train import train as run_training

    with history.writing():
        with interrupt.breakable():
            progress = begin(start, model, corpus, history, decisive, output.line)
        with (history.folder.parent / LOG).open("a" if progress.step else "w", encoding="utf-8") as log:
            report = Reporter(output, log, settings.steps)
            saver = Saver(model, history, decisive, save_every, report)
            return run_training(model, corpus, settings, report, saver=saver, interrupt=interrupt, progress=progress)


def _conclude(summary: Summary, folder: Path, compiled: Compiled, output: Output) -> None:
    speed = summary.tokens / summary.seconds
    loss = "" if summary.loss is None else f": loss {summary.loss:.4f}"
    val = "" if summary.val_loss is None else f", validation loss {summary.val_loss:.4f}"
    output.line(f"{summary.steps} steps in {summary.seconds:,.1f} s ({speed:,.0f} tokens/s){loss}{val}")
    output.line(f"weights in {folder / WEIGHTS}")
    output.result({
        "run": str(folder), "weights": str(folder / WEIGHTS), "folder": str(compiled.artefact.folder),
        "steps": summary.steps, "loss": summary.loss, "val_loss": summary.val_loss, "seconds": summary.seconds,
        "tokens_per_second": speed,
    })  # fmt: skip


def _make(folder: Path) -> None:
    """Make the folder, if it is not there."""
    from gptc.errors import StorageError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError.of(f"{folder}: cannot make this folder: {error.strerror}") from None


def _settings(compiled: Compiled, told: dict[str, Any], source: str) -> list[tuple[str, object, str]]:
    """Every setting with its origin: the command line, the model file, or gptc's default."""
    options, origins = compiled.artefact.manifest, compiled.summary["origins"]
    bound = {"batch": options.dims["B"], "seq": options.dims["T"], "micro_steps": options.micro_steps}
    values = compiled.summary["train"] | bound | told
    rows: list[tuple[str, object, str]] = []
    for name, value in values.items():
        changed = name in told or (name in bound and compiled.summary["train"][name] != value)
        rows.append(
            (name, value, f"--{name.replace('_', '-')}" if changed else origins.get(f"train.{name}", "default"))
        )
    return [*rows, ("data", source, "--data" if source != DEFAULT_DATA else "default")]


def _decisive(
    compiled: Compiled, job: Job, settings: TrainSettings, source: str, tokenizer: str | None, seed: int
) -> dict[str, Any]:
    """Everything that decides what a run computes, by its dotted name: what a checkpoint remembers."""
    manifest, options = compiled.artefact.manifest, job.request.options
    bound = {"train.batch": manifest.dims["B"], "train.seq": manifest.dims["T"], "train.steps": settings.steps}
    bound |= {"train.micro_steps": manifest.micro_steps}
    told = {} if settings.lr is None else {"train.lr": settings.lr}
    own = {"data": source, "seed": seed, "tokenizer": tokenizer or manifest.tokenizer}
    free = ("batch", "seq", "micro_steps", "mode", "sanitize")  # bound above, or without effect
    chosen = {f"options.{name}": value for name, value in options.to_json().items() if name not in free}
    return {**compiled.summary["settings"], **bound, **told, **own, **chosen}
