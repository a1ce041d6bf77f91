"""What is asked of the compiler: a model file, options, and the sizes that a command may leave to the model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gptc.accumulation import Asked, micro_steps
from gptc.options import Options

if TYPE_CHECKING:
    from gptc.model import Description


@dataclass(frozen=True)
class Request:
    """What is compiled.  None in a size takes what the model's `train:` section says.

    `total_batch` is in tokens, those of all `ranks` together, and decides `micro_steps`.
    """

    path: Path
    options: Options = field(default_factory=Options)
    overrides: tuple[str, ...] = ()
    batch: int | None = None
    seq: int | None = None
    micro_steps: int | None = None
    total_batch: int | None = None
    ranks: int = 1


def bind(request: Request, model: Description) -> Options:
    """The options with sizes that the command left open filled in from the model."""
    train = model.train
    seq = request.seq or train.seq or model.dims.get("T") or request.options.seq
    batch = request.batch or train.batch
    if request.options.mode == "infer":
        return replace(request.options, batch=batch, seq=seq, micro_steps=1)
    told = Asked(request.micro_steps, request.total_batch, ("--micro-steps", "--total-batch"))
    given = train.micro_steps if "micro_steps" in train.model_fields_set else None
    place = model.places["train.total_batch"]
    asked = told or Asked(given, train.total_batch, ("train.micro_steps", "train.total_batch"), place)
    with model.quoting():
        count = micro_steps(asked, batch, seq, request.ranks)
    return replace(request.options, batch=batch, seq=seq, micro_steps=count)
