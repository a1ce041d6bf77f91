"""The shape of a model file, as pydantic models, and its errors in the file's own terms."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import ErrorDetails

from gptc.errors import Span, did_you_mean, nearest
from gptc.model import tree
from gptc.model.source import Report, quoted
from gptc.rates import RATES


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Expression = Annotated[
    str,
    BeforeValidator(_number_as_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]}),
]
"""Text of an expression; a bare number is one too."""


class Strict(BaseModel):
    """No conversions, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Param(Strict):
    """One trained tensor."""

    shape: Annotated[list[Expression], Field(min_length=1, max_length=8)]
    """Sizes of the axes, in dims."""
    init: Expression
    """`normal(std)`, `uniform(low, high)`, `constant(value)`, `zeros` or `ones`."""
    pad: dict[str, Annotated[int, Field(ge=1, le=65536)]] = {}
    """Round the axes of a dim up to a multiple; the padding is zero and stays out of the loss."""
    decay: bool | None = None
    """Weight decay; by default tensors with two or more axes have it."""


def _param_or_group(value: Any) -> str:
    """A mapping with a shape or an init is a parameter; otherwise one that holds mappings is a group."""
    mappings = {k: isinstance(v, dict) for k, v in value.items()} if isinstance(value, dict) else {}
    is_param = not mappings.get("shape", True) or not mappings.get("init", True)
    return "<group>" if any(mappings.values()) and not is_param else "<param>"


class Group(BaseModel):
    """Parameters under a common name, once or `repeat` times."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    __pydantic_extra__: dict[
        str,
        Annotated[
            Annotated[Param, Tag("<param>")] | Annotated[Group, Tag("<group>")],
            Discriminator(_param_or_group),
        ],
    ]
    repeat: Expression | None = None

    @property
    def children(self) -> Mapping[str, Param | Group]:
        return self.__pydantic_extra__


def _block_or_statement(value: Any) -> str:
    return "<block>" if isinstance(value, dict) else "<expression>"


class Block(BaseModel):
    """Statements in order, once or `repeat` times."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    __pydantic_extra__: dict[
        str,
        Annotated[
            Annotated[Expression, Tag("<expression>")] | Annotated[Block, Tag("<block>")],
            Discriminator(_block_or_statement),
        ],
    ]
    repeat: Expression | None = None

    @property
    def children(self) -> Mapping[str, str | Block]:
        return self.__pydantic_extra__


Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


def _rounding(data: Mapping[str, Any]) -> Literal["nearest", "stochastic"]:
    return "nearest" if data.get("master_weights", True) else "stochastic"


class Train(Strict):
    """How to train; the defaults are those of GPT-2 124M in llm.c."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, validate_default=True)

    optimizer: Literal["adamw", "adam", "sgd", "lion", "tiger"] = "adamw"
    lr: Positive = 6e-4
    """Learning rate after the warm-up."""
    beta1: Fraction | None = None
    beta2: Fraction | None = None
    eps: Positive | None = None
    momentum: Fraction | None = None
    weight_decay: Annotated[float, Field(ge=0, le=1e3, allow_inf_nan=False)] | None = None
    clip: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 1.0
    """Largest global norm of the gradient; 0 does not clip."""
    master_weights: bool = True
    """With bf16 products, keep weights in f32 and a copy in bf16; else weights are bf16 themselves."""
    rounding: Literal["nearest", "stochastic"] = Field(default_factory=_rounding)
    """Of weights or their copies in bf16; by default nearest for copies, stochastic for weights that are all there is:
    small updates are lost where each is rounded to nearest."""
    step_size: Count | None = None
    """Steps after which schedule `step` multiplies the learning rate by `gamma`, again and again."""
    gamma: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.1
    schedule: Literal["cosine", "linear", "constant", "step", "wsd"] = "cosine"
    warmup: Annotated[int, Field(ge=0, le=2**31 - 1)] = 700
    """Steps in which the learning rate rises from 0."""
    final_lr_frac: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """Learning rate of the last step, as a fraction of `lr`."""
    skip_loss_outliers: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 0.0
    """Deviations above what is usual from which on a step's loss makes it be skipped; 0 skips none."""
    skip_norm_outliers: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 0.0
    """The same for the norm of the gradient."""
    outliers: Literal["mad", "zscore"] = "mad"
    """What is usual over 128 steps: `mad` median and absolute deviation; `zscore` mean and deviation, as in llm.c."""
    steps: Count = 20_000
    batch: Count = 4
    """Sequences in a micro-step, unless the command says otherwise."""
    seq: Count | None = None
    """Positions in a sequence, unless the command says otherwise; by default all that the model has."""
    micro_steps: Count = 1
    """Micro-steps whose gradients make one step."""
    total_batch: Count | None = None
    """Tokens of one step, over all its micro-steps and ranks: what decides `micro_steps`, where it is given."""

    @field_validator("beta1", "beta2", "eps", "momentum", "weight_decay")
    @classmethod
    def _of_the_optimizer(cls, value: float | None, info: ValidationInfo) -> float | None:
        """What the optimizer takes has a default; what it does not take must not be given."""
        own, name = RATES.get(info.data.get("optimizer", ""), {}), info.field_name or ""
        if value is not None and own and name not in own:
            raise ValueError(f"is nothing that {info.data['optimizer']} knows; it takes {', '.join(own)}")
        return own.get(name) if value is None else value

    @field_validator("schedule")
    @classmethod
    def _with_its_step_size(cls, value: str, info: ValidationInfo) -> str:
        if value == "step" and info.data.get("step_size") is None:
            raise ValueError("step needs a step_size: the steps after which gamma multiplies the learning rate")
        return value

    @property
    def rates(self) -> dict[str, float]:
        """The constants of the optimizer."""
        return {name: getattr(self, name) for name in RATES[self.optimizer]}


class ModelFile(Strict):
    """A model file."""

    model: str
    """Name of the model, and of the folder it is compiled into."""
    dims: Annotated[dict[str, Expression], Field(min_length=1, max_length=256)]
    """Named sizes; each may be computed from the others."""
    tokenizer: Literal["bytes", "gpt2", "ids"] = "bytes"
    params: Group
    graph: Block
    train: Train = Train()


def json_schema() -> dict[str, Any]:
    """JSON Schema of a model file, for editors."""
    return ModelFile.model_json_schema()


def validate(root: tree.Mapping, report: Report) -> ModelFile:
    """Check a tree.  Entries with mistakes are reported and taken out of it, so that the rest can be checked too."""
    try:
        return ModelFile.model_validate(tree.plain(root))
    except ValidationError as error:
        first = _mistakes(error)
    meant = {_meant(problem) for problem in first}
    for problem in first:
        if report.full:
            break
        if problem["type"] == "missing" and problem["loc"] in meant:
            continue  # it is there, misspelt
        _report(root, problem["type"], problem["loc"], problem.get("ctx", {}), problem["msg"], report)
    while True:
        if not all([_prune(root, problem["loc"]) for problem in first]) or report.full:
            report.check()
        try:
            return ModelFile.model_validate(tree.plain(root))
        except ValidationError as error:
            first = _mistakes(error)


def _mistakes(error: ValidationError) -> list[ErrorDetails]:
    """What is wrong by itself: a default that could not be computed only follows from other mistakes."""
    found = error.errors(include_url=False, include_input=False)
    return [problem for problem in found if problem["type"] != "default_factory_not_called"]


def _meant(problem: ErrorDetails) -> tree.Path | None:
    """Where an unknown key belongs, if it looks like a known one."""
    *outer, last = problem["loc"]
    close = nearest(str(last)[:64], _fields(problem["loc"])) if problem["type"] == "extra_forbidden" else None
    return (*outer, close) if close else None


def _prune(root: tree.Mapping, path: tree.Path) -> bool:
    """Take the entry at the end of `path` out; False when that would be the whole file."""
    parent, place, _ = root.find(path)
    if isinstance(parent, tree.Sequence):
        parent, place, _ = root.find(path[: path.index(place)])
    if not isinstance(parent, tree.Mapping):
        return False
    parent.values.pop(str(place), None)
    return True


def _report(root: tree.Mapping, kind: str, path: tree.Path, context: Any, text: str, report: Report) -> None:
    parent, place, node = root.find(path)
    last = str(path[-1])
    key = parent.keys[str(place)].span if isinstance(parent, tree.Mapping) else None
    if kind == "missing":
        where = quoted(str(place)) if key else "this file"
        report.error(f"{quoted(last)} is missing in {where}", key or Span(root.source.file, 1))
    elif key and isinstance(node, tree.Scalar) and node.start == node.end:
        if not _in_parentheses(parent, str(place)):
            report.error(f"{quoted(str(place))} has no value", key)
    elif kind == "extra_forbidden":
        known = _fields(path)
        close = did_you_mean(last[:64], known)
        report.error(f"unknown key {quoted(last)}", root.key(path).span, close or f"known keys: {', '.join(known)}")
    elif kind == "literal_error":
        hint = did_you_mean(_text(node), _MENU.findall(context["expected"]))
        report.error(f"expected {context['expected']}, found {_found(node)}", node.span, hint)
    elif kind in _EXPECTED:
        hint = did_you_mean(str(place)[:64], ["repeat"]) if kind == "model_type" else None
        report.error(f"expected {_EXPECTED[kind]}, found {_found(node)}", node.span, hint or _as_number(kind, node))
    elif kind in _BOUNDS:
        this = f", this is {node.text}" if isinstance(node, tree.Scalar) else ""
        report.error(f"{quoted(str(place))} {_BOUNDS[kind](context)}{this}", node.span)
    else:
        report.error(f"{quoted(str(place))} {context.get('error', text)}", node.span)


def _in_parentheses(parent: tree.Node | None, place: str) -> bool:
    """Whether a comma cut the key off a value before it, whose parenthesis is open: that mistake is told there."""
    if not isinstance(parent, tree.Mapping):
        return False
    names = list(parent.values)
    before = [(name, parent.values[name]) for name in names[: names.index(place)]]
    texts = [part for name, node in before if isinstance(node, tree.Scalar) for part in (name, node.text)]
    return sum(text.count("(") - text.count(")") for text in texts) > 0


def _fields(path: tree.Path) -> list[str]:
    """The keys that are allowed beside the last one of `path`."""
    inside: dict[str, type[BaseModel]] = {"params": Param, "train": Train}
    owner = inside[str(path[0])] if len(path) > 1 else ModelFile
    return sorted(owner.model_fields)


def _text(node: tree.Node) -> str:
    return node.text[:64] if isinstance(node, tree.Scalar) else ""


def _as_number(kind: str, node: tree.Node) -> str | None:
    """How to write the number that was meant."""
    value = tree.resolve(node.text) if isinstance(node, tree.Scalar) else None
    if kind in ("int_type", "int_from_float") and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"write {int(value)}"
    quotes = isinstance(node, tree.Scalar) and isinstance(node.value, str) and isinstance(value, int | float)
    return "leave out the quotes" if quotes else None


def _found(node: tree.Node) -> str:
    if isinstance(node, tree.Mapping):
        return "a mapping"
    if isinstance(node, tree.Sequence):
        return "a list"
    return "nothing" if node.value is None else quoted(node.text)


_MENU = re.compile(r"'([^']*)'")
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS: dict[str, Callable[[Any], str]] = {
    "greater_than": lambda c: f"must be greater than {c['gt']:g}",
    "greater_than_equal": lambda c: f"must be at least {c['ge']:g}",
    "less_than": lambda c: f"must be less than {c['lt']:g}",
    "less_than_equal": lambda c: f"must be at most {c['le']:g}",
    "too_short": lambda c: f"must have at least {c['min_length']} entry",
    "too_long": lambda c: f"must have at most {c['max_length']} entries",
}
