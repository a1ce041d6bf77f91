"""The artefact: every file of the folder that a compilation leaves, as text.

Reads: planned programs, their kernel calls, and what the model says of itself.  Leaves: path -> text, the same
bytes for the same input.  Does not: touch the disk, build or run anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gptc
from gptc.codegen.filters import c_comment
from gptc.codegen.kernel import Call, KernelSpec
from gptc.codegen.manifest import (
    Json,
    lasting_tensors,
    memory_json,
    param_json,
    plan_json,
    program_json,
    state_json,
    tensor_json,
    to_json,
)
from gptc.codegen.program import Identifiers, Program, Speller, Tensor, enumerators, wrap
from gptc.codegen.provenance import provenance
from gptc.codegen.render import cpu_headers, cuda_headers, render, render_kernel
from gptc.codegen.target import Target
from gptc.codegen.trainer import trainer_files
from gptc.contracts import FORMAT
from gptc.errors import done_for
from gptc.ir.graph import Node
from gptc.ir.ops.leaf import Buffer, Input
from gptc.ir.text import print_graphs
from gptc.options import Options
from gptc.passes.memory import MemoryReport

LIBRARY = "libmodel.so"
SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


@dataclass(frozen=True)
class About:
    """What an artefact tells about its model beyond the graphs."""

    name: str
    dims: Mapping[str, int]
    """Resolved dims; B, T and V among them."""
    tokenizer: str
    train: Mapping[str, Any]
    """The resolved `train:` section; empty for inference."""
    sources: Mapping[str, str]
    """Text of the model files by the name that spans use, to quote from."""


@dataclass(frozen=True)
class Emitted:
    """An artefact in memory.  `name` is that of its folder."""

    name: str
    files: Mapping[str, str]


def emit(programs: Sequence[Program], memory: MemoryReport, model: About, options: Options, target: Target) -> Emitted:
    """All files of the artefact."""
    facts = _Facts(tuple(programs), memory, model, options, target)
    plans = [plan_json(program, arena) for program, arena in zip(programs, memory.arenas, strict=True)]
    files = _support(facts) | {
        "graph.gir": print_graphs(program.graph for program in programs),
        "include/kernels.h": _render("kernels.h", prototypes=facts.prototypes(), halves=facts.halves()),
        "include/model.h": _model_h(facts),
        "plan.json": to_json({"segments": dict(memory.segments), "programs": plans}),
    }
    for kernel, spec in facts.specs.items():
        with done_for(facts.calls(kernel)[0][1].node.span):
            files[f"kernels/{kernel}.{target.suffix}"] = render_kernel(target, spec, facts.header(kernel))
    files |= _program_files(facts)
    files |= _trainer(facts) if facts.trains_alone else {}
    digest = _digest(files, model, options)
    name = f"{model.name}-{options.target}-{digest}"
    files["README.md"] = _readme(facts, name)
    files["manifest.json"] = to_json(_manifest(facts, digest, files))
    return Emitted(name, dict(sorted(files.items())))


def _trainer(facts: _Facts) -> dict[str, str]:
    """A program that trains the model of the folder."""
    model, micro_steps = facts.model, facts.options.micro_steps
    if facts.target.name == "cuda":
        steps = int(model.train.get("steps", 1))
        return {"train.py": render("cuda/program/train.py", steps=steps, micro_steps=micro_steps)}
    refreshes = any(program.name == "refresh" for program in facts.programs)
    return trainer_files(model.name, model.tokenizer, model.train, facts.params, micro_steps, refreshes)


def _support(facts: _Facts) -> dict[str, str]:
    """What is the target's own: how the folder is built, and what its kernels include."""
    target = facts.target
    made = {"compiler": target.compiler, "flags": " ".join(facts.flags), "libs": " ".join(target.libs)}
    ranks = {"programs/ranks.c": _render("ranks.c")} if facts.options.ranks else {}
    if target.name == "cuda":
        return ranks | {
            "Makefile": render("cuda/program/Makefile", **made),
            **cuda_headers(),
            "programs/device.cu": render("cuda/program/device.cu"),
            "programs/kernels.cu": render("cuda/program/kernels.cu", kernels=sorted(facts.specs)),
        }
    return ranks | {
        **{f"include/{name}": text for name, text in cpu_headers(target).items()},
        "include/host.h": _render("host.h"),
        "Makefile": _render("Makefile", **made, trains=facts.trains_alone),
        "programs/after.c": _render("after.c"),
        "programs/host.c": _render("host.c", features=target.features, amx=target.amx),
    }


def _digest(files: Mapping[str, str], model: About, options: Options) -> str:
    """12 hex digits over all that decides the folder's contents."""
    parts = [gptc.__version__, model.name, repr(sorted(options.to_json().items())), repr(sorted(files.items()))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _render(template: str, **context: Any) -> str:
    return render(f"c/program/{template}", **context)


@dataclass(frozen=True)
class _Facts:
    """What several files need to know."""

    programs: tuple[Program, ...]
    memory: MemoryReport
    model: About
    options: Options
    target: Target

    @property
    def flags(self) -> tuple[str, ...]:
        """What the compiler is told for every file."""
        return (*self.target.flags, *(SANITIZE if self.options.sanitize else ()), "-Iinclude")

    @property
    def trains(self) -> bool:
        return self.options.mode == "train"

    @property
    def largest(self) -> Json:
        """The arena of the program that needs most."""
        return memory_json(max(self.memory.arenas, key=lambda arena: arena.arena))

    @property
    def trains_alone(self) -> bool:
        """Whether there is a trainer in the folder: one rank without the others has a part of the state only."""
        return self.trains and self.options.shards == 1

    @cached_property
    def tensors(self) -> list[tuple[Tensor, Node]]:
        return lasting_tensors(self.programs)

    @cached_property
    def params(self) -> list[tuple[Tensor, Buffer]]:
        return self.buffers("param")

    def buffers(self, role: str) -> list[tuple[Tensor, Buffer]]:
        """What lives across calls in one role, with the op that declares it."""
        return [(t, n.op) for t, n in self.tensors if isinstance(n.op, Buffer) and n.op.role == role]

    @cached_property
    def ports(self) -> list[tuple[Tensor, bool]]:
        """Inputs and outputs, and whether the caller sets them."""
        return [(t, isinstance(n.op, Input)) for t, n in self.tensors if t.place.segment == "io"]

    @cached_property
    def specs(self) -> dict[str, KernelSpec]:
        """Kernels by name, each once, in the order of their first call."""
        return {call.kernel.name: call.kernel for program in self.programs for call in program.calls}

    def calls(self, kernel: str) -> list[tuple[str, Call]]:
        """The calls of one kernel, each with its program."""
        return [(p.name, call) for p in self.programs for call in p.calls if call.kernel.name == kernel]

    def header(self, kernel: str) -> list[str]:
        """The comment above a kernel."""
        return provenance(self.calls(kernel), self.model.sources, self.target)

    def prototypes(self) -> list[str]:
        """Lines that declare all kernels, by name."""
        lines: list[str] = []
        for name, spec in sorted(self.specs.items()):
            lines += wrap(f"void {name}(", [p.declared for p in spec.signature], ");")
        return lines

    def halves(self) -> list[str]:
        """The types of 16 bits that occur in those."""
        words = {word for spec in self.specs.values() for p in spec.signature for word in p.ctype.split()}
        return sorted(words & {"bf16", "f16"})


PORTS = {
    "tokens": "what the model reads",
    "targets": "the token after each",
    "token": "the next one of each sequence",
    "position": "of that token in its sequence",
    "positions": "of these tokens in their sequences",
    "last": "the row of each sequence, counted over all, whose logits are wanted",
    "lr": "learning rate",
    "step": "number of the update, the first is 1",
    "first": "1 in the first micro-step of a step, else 0",
    "max_loss": "no update above it; 0: any",
    "max_norm": "no update above it; 0: any",
    "loss_scale": "a factor on all gradients",
    "loss": "mean over all positions",
    "losses": "that of each position",
    "norm": "of all gradients, before clipping",
    "clip_scale": "factor on the gradients; 0: no update was made",
    "logits": "a score for each token that may come next",
}
"""What an input or output is, for those who call programs."""


def _model_h(facts: _Facts) -> str:
    ports = [
        (f"GPTC_{t.name.upper()}", t.place.offset, f"{t.type}, {'in' if given else 'out'}: {PORTS[t.name]}")
        for t, given in facts.ports
    ]
    return _render(
        "model.h", model=facts.model.name, dims=[(d, facts.model.dims[d]) for d in ("B", "T", "V")],
        sizes=dict(facts.memory.segments),
        ports=enumerators(ports), functions=[p.function for p in facts.programs], micro_steps=facts.options.micro_steps,
    )  # fmt: skip


def _program_files(facts: _Facts) -> dict[str, str]:
    """The programs, and the header that names the places of lasting tensors."""
    identifiers = Identifiers([*facts.specs, *(program.function for program in facts.programs)])
    shared: dict[tuple[str, int], str] = {}
    rows: dict[str, list[tuple[str, int, str]]] = {}
    for tensor, _ in facts.tensors:
        place, name = tensor.place, identifiers(tensor.name)
        shared[place.segment, place.offset] = name
        rows.setdefault(place.segment, []).append((name, place.offset, c_comment(str(tensor.type))))
    sections = {segment: enumerators(each) for segment, each in rows.items()}
    files = {"include/offsets.h": _render("offsets.h", sections=sections)}
    dims = facts.model.dims
    for program in facts.programs:
        speller = Speller(program, shared, Identifiers(identifiers.taken), facts.model.sources)
        title = f"{program.name} of {facts.model.name}, B {dims['B']}, T {dims['T']}: {len(program.calls)} kernel calls"
        files[f"programs/{program.name}.c"] = _render(
            "program.c", title=title, function=program.function, arena=speller.arena(), lines=speller.lines(),
            segments=speller.segments(),
        )  # fmt: skip
    return files


def _readme(facts: _Facts, name: str) -> str:
    kernels = [(kernel, len(facts.calls(kernel))) for kernel in sorted(facts.specs)]
    weights = sum(t.type.count for t, _ in facts.params)
    about = {
        "folder": name, "model": facts.model, "options": facts.options, "programs": facts.programs,
        "kernels": kernels, "sizes": dict(facts.memory.segments), "memory": facts.largest, "weights": weights,
    }  # fmt: skip
    if facts.target.name == "cuda":
        return render("cuda/program/README.md", **about, trains=facts.trains_alone)
    return _render("README.md", **about, trains=facts.trains_alone)


def _manifest(facts: _Facts, digest: str, files: Mapping[str, str]) -> Json:
    folders = ("programs/",) if facts.target.name == "cuda" else ("kernels/", "programs/")
    units = [path for path in sorted(files) if path.startswith(folders)]
    ports = [tensor_json(t) | {"direction": "in" if given else "out"} for t, given in facts.ports]
    train = {"train": dict(facts.model.train)} if facts.trains else {}
    wholes = {op.key: op.shape for _, op in facts.params}
    return {
        "format": FORMAT,
        "gptc": gptc.__version__,
        "model": facts.model.name,
        "target": facts.options.target,
        "hash": digest,
        "dims": dict(facts.model.dims),
        "tokenizer": facts.model.tokenizer,
        "options": facts.options.to_json(),
        "segments": dict(facts.memory.segments),
        "params": [param_json(tensor, op) for tensor, op in facts.params],
        "copies": [tensor_json(tensor) for tensor, _ in facts.buffers("copy")],
        "state": [state_json(tensor, wholes, facts.options.shards) for tensor, _ in facts.buffers("state")],
        "shards": facts.options.shards,
        "io": ports,
        "programs": [program_json(program) for program in facts.programs],
        **train,
        "micro_steps": facts.options.micro_steps,
        "memory": facts.largest,
        "build": {
            "compiler": facts.target.compiler,
            "flags": list(facts.flags),
            "libs": list(facts.target.libs),
            "library": LIBRARY,
            "units": units,
            "tuned": {name: dict(spec.tuned) for name, spec in facts.specs.items() if spec.tuned},
            **({"instructions": facts.target.cpu.name} if facts.target.cpu else {}),
        },
        "files": {path: hashlib.sha256(files[path].encode()).hexdigest() for path in sorted(files)},
    }
