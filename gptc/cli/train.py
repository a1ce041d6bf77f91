"""`gptc train`: compile, build, train, and keep the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptc.cli.flags import Data, Job, Json, Seed, Threads, TokenizerName, compiles

if TYPE_CHECKING:
    from gptc.cli.output import Output
    from gptc.compiler import Compiled
    from gptc.runtime.train import Event, TrainSettings


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
    run: Annotated[Path | None, typer.Option(help="Folder for weights and log (default: runs/MODEL).")] = None,
    threads: Threads = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Train a model and save its weights."""
    from gptc.cli.compile import compile_and_build
    from gptc.cli.output import Output
    from gptc.runtime.data import open_data
    from gptc.runtime.init import SEED, initialise
    from gptc.runtime.model import load_model
    from gptc.runtime.train import TrainSettings, schedule_of
    from gptc.runtime.train import train as run_training

    output = Output(json)
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
    initialise(model, SEED if seed is None else seed)
    told = {"steps": steps, "lr": lr}
    rows = _settings(compiled, {name: value for name, value in told.items() if value is not None}, corpus.source)
    output.table("settings", ("setting", "value", "from"), rows)
    with (folder / LOG).open("w", encoding="utf-8") as log:
        summary = run_training(model, corpus, settings, _Reporter(output, log, settings))
    speed = summary.tokens / summary.seconds
    val = "" if summary.val_loss is None else f", validation loss {summary.val_loss:.4f}"
    output.line(
        f"{summary.steps} steps in {summary.seconds:,.1f} s ({speed:,.0f} tokens/s): loss {summary.loss:.4f}{val}"
    )
    output.line(f"weights in {folder / WEIGHTS}")
    output.result({
        "run": str(folder), "weights": str(folder / WEIGHTS), "folder": str(compiled.artefact.folder),
        "steps": summary.steps, "loss": summary.loss, "val_loss": summary.val_loss, "seconds": summary.seconds,
        "tokens_per_second": speed,
    })  # fmt: skip


WEIGHTS = "weights.safetensors"
LOG = "log.jsonl"


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


DEFAULT_DATA = "the Python standard library"


class _Reporter:
    """Prints every step on a terminal, else some; writes all of them to the log."""

    def __init__(self, output: Output, log: Any, settings: TrainSettings) -> None:
        from time import monotonic

        self.output, self.log, self.steps, self.clock = output, log, settings.steps, monotonic
        self.last = float("-inf")

    def __call__(self, event: Event) -> None:
        from dataclasses import asdict
        from json import dumps

        from gptc.runtime.train import Evaluation

        self.log.write(dumps(asdict(event)) + "\n")
        self.log.flush()
        if isinstance(event, Evaluation):
            self.output.line(f"val loss {event.loss:.6f}")
        elif self._due(event.step):
            self.output.line(
                f"step {event.step}: train loss {event.loss:.6f} (took {event.seconds * 1e3:.2f} ms, "
                f"norm {event.norm:.4f}, lr {event.lr:.2e}, {event.tokens_per_second:,.0f} tokens/s)"
            )

    def _due(self, step: int) -> bool:
        """The first ten steps, the last, and one each second between."""
        now = self.clock()
        if step > 10 and step != self.steps and now - self.last < 1.0:
            return False
        self.last = now
        return True
