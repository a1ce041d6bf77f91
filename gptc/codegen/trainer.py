"""The native trainer: `train.c` and its headers, which need nothing but the C library and OpenMP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gptc.codegen.filters import c_float
from gptc.codegen.manifest import init_json
from gptc.codegen.program import Tensor
from gptc.codegen.render import render
from gptc.errors import InternalError
from gptc.ir.ops.leaf import Buffer
from gptc.ir.types import DType


def trainer_files(
    model: str, tokenizer: str, train: Mapping[str, Any], params: Sequence[tuple[Tensor, Buffer]], micro_steps: int,
    refreshes: bool,
) -> dict[str, str]:  # fmt: skip
    """Path -> text.  `train` gives the defaults of the options: lr, schedule and its numbers.

    `refreshes` says that there is a program which makes copies of parameters.
    """
    files = {f"include/{name}.h": render(f"c/program/{name}.h") for name in ("failure", "random", "schedule", "tokens")}
    files["include/weights.h"] = render(
        "c/program/weights.h", model=model, tokenizer=tokenizer, rows=[_row(tensor, op) for tensor, op in params],
        max_rank=max([1, *(len(op.shape) for _, op in params)]),
        narrow=any(tensor.type.dtype is DType.bf16 for tensor, _ in params),
    )  # fmt: skip
    files["train.c"] = render(
        "c/program/train.c", model=model, micro_steps=micro_steps, refreshes=refreshes, lr=repr(float(train["lr"])),
        warmup=train["warmup"], schedule=train["schedule"], final_lr_frac=repr(float(train["final_lr_frac"])),
        step_size=train["step_size"] or 0, gamma=repr(float(train["gamma"])),
    )  # fmt: skip
    return files


def _row(tensor: Tensor, op: Buffer) -> str:
    """One parameter as an initialiser of `struct param`."""
    if tensor.type.dtype not in (DType.f32, DType.bf16):
        raise InternalError.of(f"parameter {tensor.name} is {tensor.type}; the trainer initialises f32 and bf16")
    init = init_json(op.init)
    kind = {"normal": "NORMAL", "uniform": "UNIFORM"}.get(init["kind"], "CONSTANT")
    numbers = [n for field, n in init.items() if field != "kind"] or [1.0 if init["kind"] == "ones" else 0.0]
    shape, valid = _braces(op.shape), _braces(op.valid or op.shape)
    a, b = (c_float(float(n)) for n in (*numbers, 0.0)[:2])
    size = tensor.type.dtype.size
    return f'{{"{tensor.name}", {tensor.place.offset}, {len(op.shape)}, {shape}, {valid}, {kind}, {a}, {b}, {size}}},'


def _braces(shape: Sequence[int]) -> str:
    return "{" + ", ".join(str(int(d)) for d in shape or (1,)) + "}"
