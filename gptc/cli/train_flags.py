"""The flags of `gptc train` alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from gptc.cli.flags import Data, Plain, Seed, Threads, TokenizerName, choice


@dataclass(frozen=True)
class TrainFlags:
    """What a run is told, beside how its model is compiled."""

    data: Data = None
    val_data: Annotated[Path | None, typer.Option(help="What to validate on (default: a part of the data).")] = None
    tokenizer: TokenizerName = None
    steps: Annotated[int | None, typer.Option(min=1, help="Updates to make (default: the model's).")] = None
    lr: Annotated[float | None, typer.Option(help="Highest learning rate (default: the model's).")] = None
    overfit_batch: Annotated[
        bool, typer.Option("--overfit-batch", help="Learn in every step what the first one learns.")
    ] = False
    val_every: Annotated[int, typer.Option(min=0, help="Steps between validations; 0: only at the end.")] = 50
    val_batches: Annotated[int, typer.Option(min=1, help="Batches of a validation, at most.")] = 20
    sample_every: Annotated[int, typer.Option(min=0, help="Steps between samples of what it writes; 0: none.")] = 0
    sample_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a sample.")] = 64
    prompt: Annotated[str | None, typer.Option(help="What samples begin with (default: the end of a text).")] = None
    hellaswag: Annotated[
        Path | None, typer.Option("--hellaswag", help="Questions with four endings to choose from, in llm.c's format.")
    ] = None
    hellaswag_every: Annotated[
        int, typer.Option("--hellaswag-every", min=0, help="Steps between answers; 0: only at the end.")
    ] = 0
    run: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/MODEL).")] = None
    weights: Annotated[Path | None, typer.Option(help="Begin with these weights (default: random ones).")] = None
    save_every: Annotated[int, typer.Option(min=0, help="Steps between checkpoints; 0: only when stopped.")] = 0
    keep_last: Annotated[int, typer.Option(min=0, help="Keep so many of the newest checkpoints; 0: all.")] = 3
    keep_every: Annotated[int, typer.Option(min=0, help="Also keep those of every so many steps.")] = 0
    resume: Annotated[
        str | None, typer.Option(metavar="auto|STEP|PATH", help="Go on from a checkpoint; auto: the newest, if any.")
    ] = None
    allow_change: Annotated[
        str, typer.Option(metavar="NAMES", help="Settings that may differ from the checkpoint's; or all.")
    ] = ""
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the work, each with its own --batch, through MPI.")
    ] = None
    zero: Annotated[
        int, typer.Option(min=0, max=1, help="1: ranks divide the optimizer's state among them (ZeRO, stage 1).")
    ] = 0
    collectives: Annotated[
        str | None,
        typer.Option(
            help="What carries gradients between GPUs: nccl; host: its memory and MPI, slow, for ranks that share "
            "a GPU and to find faults (default: nccl).",
            parser=choice("nccl", "host"),
        ),
    ] = None
    check_ranks_every: Annotated[int, typer.Option(min=0, help="Steps between looks whether ranks agree.")] = 100
    threads: Threads = None
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write what TensorBoard shows.")] = False
    plain: Plain = False
    seed: Seed = None

    def check(self, target: str) -> None:
        """Refuse a flag that could change nothing, beside the others or on this target."""
        from gptc.errors import UsageError

        for idle, flag, hint in (
            (self.prompt is not None and not self.sample_every, "--prompt", "samples are written with --sample-every"),
            (self.hellaswag_every and not self.hellaswag, "--hellaswag-every", "--hellaswag names the questions"),
            (self.allow_change and not self.resume, "--allow-change", "it is for a run that goes on, with --resume"),
            (self.plain and target != "cuda", "--plain-launches", "it is for --target cuda"),
        ):
            if idle:
                raise UsageError.of(f"{flag} would do nothing here", None, hint)
