"""What an artefact says about itself: `manifest.json` for the runtime, `plan.json` for people and tools.

Both are plain data with a fixed order of keys, so that the same compilation prints the same bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gptc.codegen.filters import WIDTH
from gptc.codegen.kernel import Call
from gptc.codegen.program import Program, Tensor
from gptc.codegen.provenance import ops_of
from gptc.errors import InternalError
from gptc.ir.analysis import buffers, cost
from gptc.ir.graph import Node
from gptc.ir.ops.collective import AllReduceBegin, ReduceScatterBegin
from gptc.ir.ops.leaf import Buffer, Input
from gptc.ir.types import DType
from gptc.passes.memory import ArenaReport
from gptc.shares import share

Json = dict[str, Any]


def lasting_tensors(programs: Sequence[Program]) -> list[tuple[Tensor, Node]]:
    """Every parameter, state tensor, input and output of all programs once, by segment and offset.

    The node is the leaf that declares it, or for an output the node that computes it.
    """
    found: dict[str, tuple[Tensor, Node]] = {}
    for program in programs:
        for node in program.graph.nodes:
            if isinstance(node.op, (Buffer, Input)):
                _enter(found, Tensor(node.op.key, node.results[0].type, program.place(node.results[0])), node)
        kept = buffers(program.graph)
        for output in program.graph.outputs:
            if output.name not in kept:
                tensor = Tensor(output.name, output.value.type, program.place(output.value))
                _enter(found, tensor, program.graph.producer[output.value.name])
    order = ("params", "state", "io")
    return sorted(found.values(), key=lambda each: (order.index(each[0].place.segment), each[0].place.offset))


def _enter(found: dict[str, tuple[Tensor, Node]], tensor: Tensor, node: Node) -> None:
    other = found.setdefault(tensor.name, (tensor, node))[0]
    if (other.place, other.type) != (tensor.place, tensor.type):
        raise InternalError.of(f"{tensor.name} is {other.type} at {other.place} and {tensor.type} at {tensor.place}")


def tensor_json(tensor: Tensor) -> Json:
    return {
        "name": tensor.name,
        "segment": tensor.place.segment,
        "offset": tensor.place.offset,
        "shape": [int(d) for d in tensor.type.shape],
        "dtype": str(tensor.type.dtype),
    }


def param_json(tensor: Tensor, op: Buffer) -> Json:
    """A parameter, with how it begins and whether weight decay applies."""
    valid = list(op.valid or op.shape)
    scale = {"scale": f"{op.key}.scale"} if op.dtype is DType.i8 else {}
    return tensor_json(tensor) | {"init": init_json(op.init), "valid": valid, "decay": op.decay} | scale


def state_json(tensor: Tensor, wholes: Mapping[str, Sequence[int]], shards: int) -> Json:
    """A state tensor; `whole` is the shape, by parameter, of that which ranks divide among them."""
    whole = wholes.get(tensor.name.rpartition(".")[0])
    divided = shards > 1 and whole is not None and tensor.type.shape == (share(math.prod(whole), shards),)
    return tensor_json(tensor) | ({"whole": list(whole or ())} if divided else {})


def init_json(text: str) -> Json:
    """`normal(0.02)` -> `{"kind": "normal", "std": 0.02}`."""
    match = re.fullmatch(r"(\w+)(?:\(([^)]*)\))?", text.strip())
    fields = {"normal": ("std",), "uniform": ("low", "high"), "zeros": (), "ones": (), "constant": ("value",)}
    numbers = [float(n) for n in (match[2] or "").split(",") if n.strip()] if match else []
    if match is None or match[1] not in fields or len(numbers) != len(fields[match[1]]):
        raise InternalError.of(f"not an initialisation: {text!r}")
    return {"kind": match[1], **dict(zip(fields[match[1]], numbers, strict=True))}


def program_json(program: Program) -> Json:
    """The C function, and the ports that it reads and writes."""
    inputs = [n.op.key for n in program.graph.nodes if isinstance(n.op, Input)]
    outputs = [o.name for o in program.graph.outputs if program.place(o.value).segment == "io"]
    return {
        "name": program.name,
        "function": program.function,
        "inputs": inputs,
        "outputs": outputs,
        "calls": len(program.calls),
    }


def memory_json(report: ArenaReport) -> Json:
    """Bytes of the arena, of the most that is alive at a time, and of all tensors side by side."""
    return {name: getattr(report, name) for name in ("arena", "lower_bound", "sum_of_tensors")}


def plan_json(program: Program, report: ArenaReport) -> Json:
    """A program's kernel calls in order, and every value: its place, its type, the calls between which it lives."""
    values: list[Json] = []
    for value in program.values:
        place, (first, last) = program.place(value), program.live[value.name]
        values.append(
            {
                "name": value.name,
                "segment": place.segment,
                "offset": place.offset,
                "bytes": value.type.span * value.type.dtype.size,
                "shape": [int(d) for d in value.type.shape],
                "strides": list(value.type.steps),
                "dtype": str(value.type.dtype),
                "first": first,
                "last": last,
            }
        )
    return {
        "name": program.name,
        "calls": len(program.calls),
        "memory": memory_json(report),
        "kernels": [call_json(call) for call in program.calls],
        "values": values,
    }


NARROW = ("matmul", "matmul_amx", "matmul_sm90", "attention_sm90", "attention_grad_sm90")
"""Templates that multiply operands as they are read; every other kernel computes in f32."""


def call_json(call: Call) -> Json:
    """A kernel call: which kernel, what it computes and moves, the dtype of what it multiplies, what it comes from.

    An exchange that begins writes nothing yet.
    """
    spent, span = cost(call.node), call.node.span
    begins = isinstance(call.node.op, (AllReduceBegin, ReduceScatterBegin))
    dtype = str(call.node.operands[0].type.dtype) if call.kernel.template in NARROW else "f32"
    return {
        "kernel": call.kernel.name, "flops": spent.flops, "bytes": spent.nbytes, "dtype": dtype,
        "ops": ops_of(call.node), "block": call.node.origin, "at": [span.file, span.line, span.col] if span else None,
        "writes": [] if begins else [value.name for value in call.node.results],
    }  # fmt: skip


def to_json(data: Json) -> str:
    """JSON for people: what is short stays on one line, and so does each record of a list."""
    return _print(data, 0, record=False) + "\n"


def _print(data: Any, depth: int, record: bool) -> str:
    flat = json.dumps(data, allow_nan=False)
    if not isinstance(data, (dict, list)) or len(flat) + 2 * depth <= WIDTH:
        return flat
    pad = "  " * (depth + 1)
    if isinstance(data, dict):
        if record and not any(isinstance(each, list) and each and isinstance(each[0], dict) for each in data.values()):
            return flat
        inside = [f"{json.dumps(key)}: {_print(value, depth + 1, record=False)}" for key, value in data.items()]
        opening, closing = "{", "}"
    else:
        inside = [_print(each, depth + 1, record=isinstance(each, dict)) for each in data]
        opening, closing = "[", "]"
    return opening + "\n" + ",\n".join(pad + each for each in inside) + "\n" + "  " * depth + closing
