"""The typed form of manifest.json, with everything checked that its numbers can get wrong.

Nothing here touches the disk.  Keys that are not named here are ignored: they inform people, not the runtime.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gptc.contracts import ALIGNMENT, DTYPES, FORMAT, SEGMENTS, Segment
from gptc.errors import InputError, StorageError
from gptc.shares import share

REEMIT = "compile the model again; emitted files are not meant to be edited in place"

Size = Annotated[int, Field(ge=0, lt=1 << 62)]
Extent = Annotated[int, Field(ge=1, lt=1 << 40)]
Shape = Annotated[tuple[Extent, ...], Field(max_length=8)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,255}$")]
RelativePath = Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$", max_length=512)]  # no part begins with a dot


class Strict(BaseModel):
    """A number is never read from a string, a float never becomes an int, NaN is refused."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Tensor(Strict):
    """A named region of a segment; `offset` in bytes."""

    name: Name
    segment: Segment
    offset: Size
    shape: Shape
    dtype: Literal["f64", "f32", "bf16", "f16", "i32", "i8", "u8"]

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        return DTYPES[self.dtype]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.numpy_dtype.itemsize


class State(Tensor):
    """A tensor of the optimizer's state."""

    whole: Shape | None = None
    """The shape of the tensor of which this is a rank's share, flat; None where each rank has all of it."""


class Normal(Strict):
    kind: Literal["normal"]
    std: float = Field(ge=0)


class Uniform(Strict):
    kind: Literal["uniform"]
    low: float
    high: float


class Zeros(Strict):
    kind: Literal["zeros"]


class Ones(Strict):
    kind: Literal["ones"]


class Constant(Strict):
    kind: Literal["constant"]
    value: float


Init = Annotated[Normal | Uniform | Zeros | Ones | Constant, Field(discriminator="kind")]


class Param(Tensor):
    """A parameter.  `valid` is the leading corner that is initialised and saved; the rest is zero padding."""

    init: Init
    valid: Shape
    decay: bool = True
    scale: Name | None = None
    """The state tensor that has the scale of each row, where rows are stored in i8."""

    @model_validator(mode="after")
    def _valid_inside_shape(self) -> Param:
        if len(self.valid) != len(self.shape) or any(v > s for v, s in zip(self.valid, self.shape, strict=True)):
            raise ValueError(f"valid region {list(self.valid)} does not fit shape {list(self.shape)}")
        return self


class Port(Tensor):
    """An input or output of programs."""

    direction: Literal["in", "out"]


class Program(Strict):
    """One C function.  `inputs` and `outputs` name ports; `calls` counts its kernel calls."""

    name: Name
    function: Annotated[str, Field(pattern=r"^gptc_[A-Za-z0-9_]{1,63}$")]
    inputs: tuple[Name, ...]
    outputs: tuple[Name, ...]
    calls: Size = 0


class TrainDefaults(Strict):
    """How the model is trained unless told otherwise; the optimizer's constants are compiled in."""

    lr: float = Field(gt=0)
    schedule: str
    warmup: int = Field(ge=0)
    final_lr_frac: float = Field(ge=0, le=1)
    step_size: int | None = Field(default=None, ge=1)
    gamma: float = Field(default=0.1, gt=0, le=1)
    skip_loss_outliers: float = Field(default=0.0, ge=0)
    skip_norm_outliers: float = Field(default=0.0, ge=0)
    outliers: Literal["mad", "zscore"] = "mad"


class Build(Strict):
    """How to compile: `units` are C files, `flags` go to each of them and to the link, `libs` end the link."""

    compiler: str = Field(min_length=1)
    flags: tuple[str, ...]
    libs: tuple[str, ...]
    library: RelativePath
    units: tuple[RelativePath, ...] = Field(min_length=1)
    instructions: str = ""
    """The instruction set as people call it, AVX2 or NEON."""


class Manifest(Strict):
    """The whole file."""

    format: Literal[1]
    gptc: str
    model: str
    target: str
    hash: str = Field(min_length=1)
    dims: dict[str, Extent]
    tokenizer: str
    segments: dict[Segment, Size]
    params: tuple[Param, ...]
    copies: tuple[Tensor, ...] = ()
    """Parameters in another dtype, as the program `refresh` and updates leave them: never saved."""
    state: tuple[State, ...]
    shards: int = Field(default=1, ge=1)
    """Ranks that divide the state among them."""
    io: tuple[Port, ...]
    programs: tuple[Program, ...] = Field(min_length=1)
    train: TrainDefaults | None = None
    micro_steps: int = Field(default=1, ge=1)
    build: Build
    files: dict[RelativePath, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]

    @field_validator("dims")
    @classmethod
    def _known_dims(cls, dims: dict[str, int]) -> dict[str, int]:
        if missing := [name for name in ("B", "T", "V") if name not in dims]:
            raise ValueError(f"dims must have {', '.join(missing)}")
        return dims

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        _check_unique("tensor", (tensor.name for tensor in self.tensors))
        _check_unique("program", (program.name for program in self.programs))
        _check_layout(self.tensors, self.segments)
        ports = {port.name for port in self.io}
        for program in self.programs:
            for name in program.inputs + program.outputs:
                if name not in ports:
                    raise ValueError(f"program {program.name} uses {name}, which is not in io")
        for tensor in self.state:
            if tensor.whole and tensor.shape != (share(math.prod(tensor.whole), self.shards),):
                parts = f"{list(tensor.shape)} is no share of {list(tensor.whole)} among {self.shards}"
                raise ValueError(f"state {tensor.name}: {parts}")
        for unit in self.build.units:
            if unit not in self.files:
                raise ValueError(f"unit {unit} has no hash in files")
        return self

    @property
    def masters(self) -> frozenset[str]:
        """Names of the parameters that have copies."""
        return frozenset(copy.name.removesuffix(f".{copy.dtype}") for copy in self.copies)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.params, *self.copies, *self.state, *self.io)


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """The manifest in `text`; `path` only names it in messages.

    Raises InputError for another format, StorageError for anything else that is wrong.
    """
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StorageError.of(f"{path}: not valid JSON: {error}", None, REEMIT) from None
    if isinstance(head, dict) and head.get("format", FORMAT) != FORMAT:
        found, maker = head["format"], head.get("gptc", "another version")
        raise InputError.of(f"{path}: format {found!r} of gptc {maker}; this one reads {FORMAT}", None, REEMIT)
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise StorageError.of(f"{path}: {first_mistake(error)}", None, REEMIT) from None


def first_mistake(error: ValidationError) -> str:
    """`params.0.shape: what is wrong there`, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))[:200] or "manifest"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"


def _check_unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name} appears twice")
        seen.add(name)


def _check_layout(tensors: tuple[Tensor, ...], segments: dict[Segment, int]) -> None:
    """Every tensor aligned, inside its segment, and apart from its neighbours."""
    if missing := [name for name in SEGMENTS if name not in segments]:
        raise ValueError(f"segments must have {', '.join(missing)}")
    ends: dict[str, tuple[int, str]] = {}
    for tensor in sorted(tensors, key=lambda t: (t.segment, t.offset)):
        end = tensor.offset + tensor.nbytes
        if tensor.offset % ALIGNMENT:
            raise ValueError(f"tensor {tensor.name} at byte {tensor.offset} is not aligned to {ALIGNMENT}")
        if end > segments[tensor.segment]:
            size = segments[tensor.segment]
            raise ValueError(f"tensor {tensor.name} ends at byte {end} of segment {tensor.segment}, which has {size}")
        before, name = ends.get(tensor.segment, (0, ""))
        if tensor.offset < before:
            raise ValueError(f"tensors {name} and {tensor.name} overlap in segment {tensor.segment}")
        ends[tensor.segment] = (end, tensor.name)
