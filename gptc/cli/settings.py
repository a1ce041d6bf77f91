"""What a run was told, in full: a table for people, and what its checkpoints remember."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from gptc.cli.output import size
from gptc.cli.peak import flops_per_token, peak_flops
from gptc.runtime.data import STANDARD_LIBRARY
from gptc.runtime.events import Began
from gptc.runtime.init import SEED

if TYPE_CHECKING:
    from gptc.cli.flags import Job
    from gptc.cli.train_flags import TrainFlags
    from gptc.compiler import Compiled
    from gptc.runtime.data import Data
    from gptc.runtime.loader import Loader
    from gptc.runtime.settings import TrainSettings
    from gptc.runtime.world import World

ELSEWHERE = ("data", "steps", "lr", "tokenizer", "ranks", "plain")
"""Flags that the table has in another place, or that change nothing that it tells of."""
Row = tuple[str, str, str]
"""Name, value, and where the value is from: the command line, a line of the model file, or gptc's default."""


def beginning(compiled: Compiled, job: Job, flags: TrainFlags, data: Data, world: World) -> Began:
    """The run before its first step: all settings, and what the machine can do.

    The leading rank alone measures; the others wait, and report nothing.
    """
    rows = settings_table(compiled, job, flags, data, world.size)
    manifest = compiled.artefact.manifest
    peak = peak_flops(job.request.options, manifest.build) if world.leads else None
    if peak is not None:
        peak *= world.size
        rows.append(("peak", f"{peak / 1e9:,.0f} GFLOP/s of multiply-adds, measured", ""))
    return Began(0, manifest.model, tuple(rows), flops_per_token(compiled.artefact), peak)


def settings_table(compiled: Compiled, job: Job, flags: TrainFlags, data: Data, ranks: int) -> list[Row]:
    """Every setting with its origin, then what follows from them: sizes of the model, the data and the memory."""
    manifest, train, origins = compiled.artefact.manifest, compiled.summary["train"], compiled.summary["origins"]
    sizes = {"batch": manifest.dims["B"], "seq": manifest.dims["T"], "micro_steps": manifest.micro_steps}
    sizes["total_batch"] = total = math.prod(sizes.values()) * ranks
    asked = {name: getattr(flags, name) for name in ("steps", "lr")}
    asked |= {name: getattr(job.request, name) for name in sizes}
    told = {name: value for name, value in asked.items() if value is not None}

    def origin(name: str) -> str:
        if name in told:
            return f"--{name.replace('_', '-')}"
        if name == "total_batch" and train[name] != total:
            return "product"
        if name == "micro_steps" and total in (told.get("total_batch"), train["total_batch"]):
            return "total_batch"
        return str(origins.get(f"train.{name}", "default"))

    values = train | told | sizes  # None is a constant of another optimizer
    rows = [(name, str(value), origin(name)) for name, value in values.items() if value is not None]
    rows += [("data", data.source, "default" if data.source == STANDARD_LIBRARY else "--data"), *_flags(flags)]
    idle = _idle(flags, values["schedule"], ranks)
    rows = [row for row in rows if row[0] not in idle or row[2] != "default"]
    facts = _facts(compiled, job, data, ranks, total, values["steps"])
    return rows + [(name, value, "") for name, value in facts.items()]


def _idle(flags: TrainFlags, schedule: str, ranks: int) -> set[str]:
    """Settings that have no effect in this run."""
    without = {
        "gamma": schedule == "step",
        "sample_tokens": flags.sample_every,
        "hellaswag_every": flags.hellaswag,
        "zero": ranks > 1,
        "check_ranks_every": ranks > 1,
    }
    return {name for name, used in without.items() if not used}


def _flags(flags: TrainFlags) -> list[Row]:
    """What else was asked for on the command line, or would have been."""
    rows = []
    for field in fields(flags):
        value = getattr(flags, field.name)
        origin = "default" if value == field.default else f"--{field.name.replace('_', '-')}"
        value = SEED if field.name == "seed" and value is None else value
        if field.name not in ELSEWHERE and value not in ("", None) and value is not False:
            rows.append((field.name, str(value), origin))
    return rows


def _facts(compiled: Compiled, job: Job, data: Data, ranks: int, total_batch: int, steps: int) -> dict[str, str]:
    manifest, summary = compiled.artefact.manifest, compiled.summary
    parts = ", ".join(f"{name} {size(n)}" for name, n in summary["segments"].items())
    sizes = ", ".join(f"{name} {n:,}" for name, n in manifest.dims.items() if name not in ("B", "T"))
    return {
        "model": f"{manifest.model}, {summary['parameters']:,} parameters",
        "sizes": sizes,
        "tokenizer": manifest.tokenizer,
        "target": summary["target"],
        "precision": job.request.options.precision,
        "remat": job.request.options.remat,
        "ranks": str(ranks),
        "tokens in all": f"{total_batch * steps:,}",
        "epochs": f"{steps * manifest.micro_steps / data.train.samples:,.4g}",
        "to train on": _extent(data.train),
        "to validate on": _extent(data.val),
        "state": "all of it" if manifest.shards == 1 else f"divided among {manifest.shards} ranks (ZeRO, stage 1)",
        "memory": f"{size(sum(summary['segments'].values()))} a rank: {parts}",
    }


def _extent(loader: Loader) -> str:
    return f"{loader.tokens:,} tokens, {loader.samples:,} batches"


def decisive(
    compiled: Compiled, job: Job, settings: TrainSettings, source: str, tokenizer: str, seed: int, ranks: int
) -> dict[str, Any]:
    """Everything that decides what a run computes, by its dotted name: what a checkpoint remembers."""
    manifest, options = compiled.artefact.manifest, job.request.options
    bound = {"train.batch": manifest.dims["B"] * ranks, "train.seq": manifest.dims["T"], "train.steps": settings.steps}
    bound |= {"train.micro_steps": manifest.micro_steps}
    told = {} if settings.lr is None else {"train.lr": settings.lr}
    told |= {"overfit_batch": True} if settings.overfit_batch else {}
    own = {"data": source, "seed": seed, "tokenizer": tokenizer, "ranks": ranks}
    free = ("batch", "seq", "micro_steps", "mode", "sanitize")  # bound above, or without effect
    chosen = {f"options.{name}": value for name, value in options.to_json().items() if name not in free}
    found = {**compiled.summary["settings"], **bound, **told, **own, **chosen}
    del found["train.total_batch"]  # the product of others
    return found
