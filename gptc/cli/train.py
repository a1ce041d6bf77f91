"""`gptc train`: compile, build, train, and keep the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptc.cli.flags import Data, Job, Json, Plain, Seed, Threads, TokenizerName, compiles

if TYPE_CHECKING:
    from gptc.cli.events import Watch
    from gptc.cli.output import Output
    from gptc.compiler import Compiled
    from gptc.runtime.data import Data as Corpus
    from gptc.runtime.history import History
    from gptc.runtime.interrupt import Interrupt
    from gptc.runtime.model import Model
    from gptc.runtime.resume import Start
    from gptc.runtime.settings import TrainSettings
    from gptc.runtime.train import Summary
    from gptc.runtime.world import World

WEIGHTS = "weights.safetensors"
CHECKPOINTS = "checkpoints"
NOTICE = "\nstopping: a checkpoint is written first; a second signal ends this at once\n"


ValData = Annotated[Path | None, typer.Option(help="What to validate on (default: a part of the data).")]
Steps = Annotated[int | None, typer.Option(min=1, help="Updates to make (default: the model's).")]
Rate = Annotated[float | None, typer.Option(help="Highest learning rate (default: the model's).")]
ValEvery = Annotated[int, typer.Option(min=0, help="Steps between validations; 0: only at the end.")]
ValBatches = Annotated[int, typer.Option(min=1, help="Batches of a validation, at most.")]
Folder = Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/MODEL).")]
Weights = Annotated[Path | None, typer.Option(help="Begin with these weights (default: random ones).")]
SaveEvery = Annotated[int, typer.Option(min=0, help="Steps between checkpoints; 0: only when stopped.")]
KeepLast = Annotated[int, typer.Option(min=0, help="Keep so many of the newest checkpoints; 0: all.")]
KeepEvery = Annotated[int, typer.Option(min=0, help="Also keep those of every so many steps.")]
Resume = Annotated[str | None, typer.Option(help="Go on from a checkpoint: auto, STEP or a folder.")]
AllowChange = Annotated[
    str, typer.Option(metavar="NAMES", help="Settings that may differ from the checkpoint's; or all.")
]
Ranks = Annotated[
    int | None, typer.Option(min=1, help="Processes that share the work, each with its own --batch, through MPI.")
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write what TensorBoard shows.")]


@compiles("train")
def train(
    job: Job, data: Data = None, val_data: ValData = None, tokenizer: TokenizerName = None, steps: Steps = None,
    lr: Rate = None, val_every: ValEvery = 50, val_batches: ValBatches = 20, run: Folder = None,
    weights: Weights = None, save_every: SaveEvery = 0, keep_last: KeepLast = 3, keep_every: KeepEvery = 0,
    resume: Resume = None, allow_change: AllowChange = "", ranks: Ranks = None, threads: Threads = None,
    tensorboard: TensorBoard = False, plain: Plain = False, seed: Seed = None, json: Json = False,
) -> None:  # fmt: skip
    """Train a model and save its weights.  SIGINT and SIGTERM end it with a checkpoint."""
    from gptc.cli.compile import compile_and_build
    from gptc.cli.events import Watch
    from gptc.cli.output import Output
    from gptc.cli.ranks import distributed, join_job, start_ranks, threads_of
    from gptc.cli.settings import beginning, decisive
    from gptc.runtime.data import open_data
    from gptc.runtime.history import History
    from gptc.runtime.init import SEED
    from gptc.runtime.interrupt import Interrupt
    from gptc.runtime.model import load_model
    from gptc.runtime.resume import Start
    from gptc.runtime.settings import TrainSettings, schedule_of

    if tensorboard:
        import gptc.cli.tensorboard  # noqa: F401  (tells at once where it cannot be)
    world = join_job(ranks)
    rank, size = (world.rank, world.size) if world else (0, ranks or 1)
    job = distributed(job) if size > 1 else job
    output = Output(json, silent=rank > 0)
    start = Start(resume, frozenset(allow_change.split(",")), weights, SEED if seed is None else seed)
    with Interrupt("" if rank else NOTICE, patient=size > 1 and world is not None) as interrupt:
        with interrupt.breakable():
            compiled, built = compile_and_build(job, output)
            assert built is not None
            manifest = compiled.artefact.manifest
            folder = run or Path("runs") / manifest.model
            count = steps or compiled.summary["train"]["steps"]
            settings = TrainSettings(count, lr, eval_every=val_every, eval_batches=val_batches, save=folder / WEIGHTS)
            dims, codec = manifest.dims, tokenizer or manifest.tokenizer
            shape = dims["B"], dims["T"], dims["V"]
            corpus = open_data(data, codec, *shape, val=val_data, rank=rank, world=size)
            counted = threads or (threads_of(size) if size > 1 else None)
            model = load_model(compiled.artefact, built.library, counted, plain)
            schedule_of(model, settings)  # a rate that cannot be is told before anything is written
            _make(folder)
        if world is not None:
            told = {name: value for name, value in {"steps": steps, "lr": lr}.items() if value is not None}
            began = beginning(compiled, job, told, corpus, world)
            output.table("settings", ("setting", "value", "from"), began.settings)
            remembered = decisive(compiled, job, settings, corpus.source, codec, start.seed, size)
            history = History(folder / CHECKPOINTS, keep_last, keep_every)
            watch = Watch(output, folder, count, began, tensorboard)
            with world.together():
                summary = _run(model, corpus, settings, start, history, remembered, save_every, interrupt, watch, world)
    if world is None:
        raise typer.Exit(start_ranks(size))
    _conclude(summary, folder, compiled, output)


def _run(
    model: Model, corpus: Corpus, settings: TrainSettings, start: Start, history: History,
    remembered: dict[str, Any], save_every: int, interrupt: Interrupt, watch: Watch, world: World,
) -> Summary:  # fmt: skip
    """Train.  Of all ranks the first alone begins, reports and writes; the others take over what it has."""
    from gptc.runtime.events import Ended
    from gptc.runtime.machine import peak_rss
    from gptc.runtime.progress import Progress
    from gptc.runtime.resume import begin
    from gptc.runtime.saver import Saver
    from gptc.runtime.train import train as run_training

    if not world.leads:
        world.attach(model)
        progress = Progress.shared(world)
        return run_training(model, corpus, settings, interrupt=interrupt, progress=progress, world=world)
    with history.writing():
        with interrupt.breakable():
            progress = begin(start, model, corpus, history, remembered, watch.output.line)
        world.attach(model)
        progress = Progress.shared(world, progress)
        report = watch.open(progress.step)
        saver = Saver(model, history, remembered, save_every, report)
        summary = run_training(
            model, corpus, settings, report, saver=saver, interrupt=interrupt, progress=progress, world=world
        )
        report(Ended(summary.steps, summary.seconds, peak_rss()))
        return summary


def _conclude(summary: Summary, folder: Path, compiled: Compiled, output: Output) -> None:
    from gptc.runtime.machine import peak_rss

    speed = summary.tokens / summary.seconds
    loss = "" if summary.loss is None else f": loss {summary.loss:.4f}"
    val = "" if summary.val_loss is None else f", validation loss {summary.val_loss:.4f}"
    peak = peak_rss()  # of this process, the first of several
    output.line(f"{summary.steps} steps in {summary.seconds:,.1f} s ({speed:,.0f} tokens/s){loss}{val}")
    output.line(f"peak memory {peak / 2**20:,.0f} MiB")
    output.line(f"weights in {folder / WEIGHTS}")
    output.result({
        "run": str(folder), "weights": str(folder / WEIGHTS), "folder": str(compiled.artefact.folder),
        "steps": summary.steps, "loss": summary.loss, "val_loss": summary.val_loss, "seconds": summary.seconds,
        "tokens_per_second": speed, "peak_rss": peak,
    })  # fmt: skip


def _make(folder: Path) -> None:
    """Make the folder, if it is not there."""
    from gptc.errors import StorageError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError.of(f"{folder}: cannot make this folder: {error.strerror}") from None
