"""`gptc train`: compile, build, train, and keep the weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gptc.cli.flags import Job, Json, compiles
from gptc.cli.train_flags import TrainFlags

if TYPE_CHECKING:
    from gptc.cli.events import Watch
    from gptc.cli.output import Output
    from gptc.compiler import Compiled
    from gptc.runtime.data import Data as Corpus
    from gptc.runtime.history import History
    from gptc.runtime.interrupt import Interrupt
    from gptc.runtime.manifest import Manifest
    from gptc.runtime.model import Model
    from gptc.runtime.resume import Start
    from gptc.runtime.sampler import Sampler
    from gptc.runtime.settings import TrainSettings
    from gptc.runtime.train import Summary
    from gptc.runtime.world import World

WEIGHTS = "weights.safetensors"
CHECKPOINTS = "checkpoints"
NOTICE = "\nstopping: a checkpoint is written first, for --resume auto; a second signal ends this at once\n"


@compiles("train")
def train(job: Job, flags: TrainFlags, json: Json = False) -> None:
    """Train a model and save its weights.  SIGINT and SIGTERM end it with a checkpoint."""
    from gptc.cli.compile import compile_and_build
    from gptc.cli.events import Watch
    from gptc.cli.output import Output
    from gptc.cli.ranks import distributed, join_job, start_ranks, threads_of, whole
    from gptc.cli.settings import beginning, decisive
    from gptc.runtime.atomic import make_folder
    from gptc.runtime.history import History
    from gptc.runtime.init import SEED
    from gptc.runtime.interrupt import Interrupt
    from gptc.runtime.model import load_model
    from gptc.runtime.resume import Start
    from gptc.runtime.settings import schedule_of

    flags.check(job.request.options.target)
    if flags.tensorboard:
        import gptc.cli.tensorboard  # noqa: F401  (tells at once where it cannot be)
    world = join_job(job, flags.ranks, flags.collectives)
    rank, size = (world.rank, world.size) if world else (0, flags.ranks or 1)
    job = distributed(job, size, flags.zero) if size > 1 else whole(job, flags.ranks, flags.zero)
    output = Output(json, silent=rank > 0)
    seed = SEED if flags.seed is None else flags.seed
    start = Start(flags.resume, frozenset(flags.allow_change.split(",")), flags.weights, seed)
    with Interrupt("" if rank else NOTICE, patient=size > 1 and world is not None) as interrupt:
        with interrupt.breakable():
            compiled, built = compile_and_build(job, output)
            manifest = compiled.artefact.manifest
            folder = flags.run or Path("runs") / manifest.model
            settings = _settings(flags, flags.steps or compiled.summary["train"]["steps"], folder)
            codec = flags.tokenizer or manifest.tokenizer
            corpus = _corpus(flags, manifest, codec, rank, size)
            threads = flags.threads or (threads_of(size) if size > 1 else None)
            starts = world is None and manifest.target == "cuda"  # ranks whose GPUs are theirs alone
            model = None if starts else load_model(compiled.artefact, built.library, threads, flags.plain)
            leads = world is not None and world.leads
            sampler = _sampler(flags, job, codec, threads, output, leads) if flags.sample_every else None
            schedule_of(compiled.artefact, settings)  # a rate that cannot be is told before anything is written
            make_folder(folder)
            if flags.resume is None and leads and (folder / WEIGHTS).exists():
                output.line(f"{folder / WEIGHTS} is of an earlier run, and replaced when this one ends")
        if world is not None:
            assert model is not None
            began = beginning(compiled, job, flags, corpus, world)
            output.table("settings", ("setting", "value", "from"), began.settings)
            remembered = decisive(compiled, job, settings, corpus.source, codec, seed, size)
            history = History(folder / CHECKPOINTS, flags.keep_last, flags.keep_every)
            watch = Watch(output, folder, settings.steps, began, flags.tensorboard)
            kept = Kept(history, remembered, flags.save_every)
            with world.together():
                summary = _run(model, corpus, settings, start, kept, interrupt, watch, world, sampler)
    if world is None:
        raise typer.Exit(start_ranks(size))
    _conclude(summary, folder, compiled, output)


def _settings(flags: TrainFlags, steps: int, folder: Path) -> TrainSettings:
    from gptc.runtime.settings import TrainSettings

    return TrainSettings(
        steps, flags.lr, eval_every=flags.val_every, eval_batches=flags.val_batches,
        score_every=flags.hellaswag_every, sample_every=flags.sample_every, overfit_batch=flags.overfit_batch,
        check_ranks_every=flags.check_ranks_every, save=folder / WEIGHTS,
    )  # fmt: skip


def _corpus(flags: TrainFlags, manifest: Manifest, codec: str, rank: int, size: int) -> Corpus:
    """What a rank learns from, and what it is examined with."""
    from gptc.runtime.choices import ChoiceLoader
    from gptc.runtime.data import open_data

    shape = manifest.dims["B"], manifest.dims["T"], manifest.dims["V"]
    corpus = open_data(flags.data, codec, *shape, val=flags.val_data, rank=rank, world=size)
    if flags.hellaswag is None:
        return corpus
    return replace(corpus, choices=ChoiceLoader(flags.hellaswag, *shape, rank, size))


def _sampler(
    flags: TrainFlags, job: Job, codec: str, threads: int | None, output: Output, leads: bool
) -> Sampler | None:
    """What writes samples: the first rank alone does, but all compile it, so that none waits long for another."""
    from gptc.cli.compile import compile_and_build, for_inference
    from gptc.runtime.model import load_model
    from gptc.runtime.sampler import Sampler
    from gptc.runtime.tokenizer import load_tokenizer

    compiled, built = compile_and_build(replace(for_inference(job), chosen=""), output)
    if not leads:
        return None
    model = load_model(compiled.artefact, built.library, threads)
    return Sampler(model, load_tokenizer(codec), flags.prompt, flags.sample_tokens)


@dataclass(frozen=True)
class Kept:
    """The checkpoints of a run: where, with which settings in them, and after how many steps each."""

    history: History
    remembered: dict[str, Any]
    every: int


def _run(
    model: Model, corpus: Corpus, settings: TrainSettings, start: Start, kept: Kept,
    interrupt: Interrupt, watch: Watch, world: World, sampler: Sampler | None,
) -> Summary:  # fmt: skip
    """Train.  Of all ranks the first alone begins, reports and writes; the others take over what it has."""
    from gptc.runtime.events import Ended
    from gptc.runtime.machine import peak_rss
    from gptc.runtime.progress import Progress
    from gptc.runtime.resume import begin, follow
    from gptc.runtime.saver import Saver
    from gptc.runtime.train import train as run_training

    divided = model.artefact.manifest.shards > 1
    if not world.leads:
        follow(model, world)
        world.attach(model)
        progress = Progress.shared(world)
        saver = Saver(model, kept.history, kept.remembered, kept.every, world=world) if divided else None
        return run_training(model, corpus, settings, saver=saver, interrupt=interrupt, progress=progress, world=world)
    with kept.history.writing():
        with interrupt.breakable():
            progress = begin(start, model, corpus, kept.history, kept.remembered, watch.output.line, world)
        world.attach(model)
        progress = Progress.shared(world, progress)
        report = watch.open(progress.step)
        writers = world if divided else world.alone()
        saver = Saver(model, kept.history, kept.remembered, kept.every, report, writers)
        summary = run_training(
            model, corpus, settings, report, saver=saver, interrupt=interrupt, progress=progress, world=world,
            sampler=sampler,
        )  # fmt: skip
        report(Ended(summary.steps, summary.seconds, peak_rss()))
        return summary


def _conclude(summary: Summary, folder: Path, compiled: Compiled, output: Output) -> None:
    from gptc.cli.output import counted, seconds
    from gptc.runtime.machine import peak_rss

    speed = summary.tokens / summary.seconds
    loss = "" if summary.loss is None else f": loss {summary.loss:.4f}"
    val = "" if summary.val_loss is None else f", validation loss {summary.val_loss:.4f}"
    peak = peak_rss()  # of this process, the first of several
    pace = f"in {seconds(summary.seconds)} ({speed:,.0f} tokens/s all in all)" if summary.tokens else "were made before"
    output.line(f"{counted(summary.steps, 'step')} {pace}{loss}{val}")
    output.line(f"peak memory {peak / 2**20:,.0f} MiB")
    output.line(f"weights in {folder / WEIGHTS}")
    output.result({
        "run": str(folder), "weights": str(folder / WEIGHTS), "folder": str(compiled.artefact.folder),
        "steps": summary.steps, "loss": summary.loss, "val_loss": summary.val_loss, "seconds": summary.seconds,
        "tokens_per_second": speed, "peak_rss": peak,
    })  # fmt: skip
