"""How each optimizer makes new parameters and new state, as ops; `update` calls these for one parameter at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gptc.ir.build import Builder
from gptc.ir.graph import Value
from gptc.ir.types import DType


@dataclass(frozen=True)
class Parameter:
    """What the update of one parameter has to work with."""

    value: Value
    grad: Value
    lr: Value
    step: Value
    scale: Value
    """A factor on the gradient."""
    state: Callable[[str], Value]
    """The state buffer of a name, made when it is first asked for."""
    copy: str
    """The dtype in which a copy of the parameter is kept, or an empty string."""
    seed: Value | None
    """Of stochastic rounding, where what is narrow is rounded so."""

    def rounded(self, b: Builder, new: Value, dtype: DType) -> Value:
        """The new parameter as a copy has it, or as it is kept itself."""
        made: Value = b.cast(new, dtype=dtype) if self.seed is None else b.stochastic_round(new, self.seed)
        return made


Rates = Mapping[str, float]
"""The constants of the optimizer, as `gptc.rates` names them."""
New = dict[str, Value]
"""Suffix of a buffer -> its new value: empty for the parameter, `.m` for the state m, `.bf16` for a copy."""
Rule = Callable[[Builder, Parameter, Rates, str], New]
"""Takes the rates and a label; appends the step."""


def adamw(b: Builder, p: Parameter, rates: Rates, label: str, *, eps_hat: bool = False) -> New:
    seed = () if p.seed is None else (p.seed,)
    operands = p.value, p.grad, p.state("m"), p.state("v"), *seed, p.lr, p.step, p.scale
    new = b.adamw(*operands, label=label, copy=p.copy, stochastic=bool(seed), eps_hat=eps_hat, **rates)
    return dict(zip(("", ".m", ".v", f".{p.copy}"), new, strict=False))


def adam(b: Builder, p: Parameter, rates: Rates, label: str) -> New:
    return adamw(b, p, {**rates, "weight_decay": 0.0}, label, eps_hat=True)


def averaged(op: str) -> Rule:
    """The rule of an optimizer whose only state is an average m: `op` makes the new parameter and the new m."""

    def rule(b: Builder, p: Parameter, rates: Rates, label: str) -> New:
        new, m = getattr(b, op)(_wide(b, p), p.grad, p.state("m"), p.lr, p.scale, label=label, **rates)
        return _stored(b, p, new) | {".m": m}

    return rule


def sgd(b: Builder, p: Parameter, rates: Rates, label: str) -> New:
    if rates["momentum"]:
        return averaged("sgd")(b, p, rates, label)
    return _stored(b, p, b.sgd(_wide(b, p), p.grad, p.lr, p.scale, label=label, **rates))


def _wide(b: Builder, p: Parameter) -> Value:
    """The parameter in f32."""
    return p.value if p.value.type.dtype is DType.f32 else b.cast(p.value, dtype=DType.f32)


def _stored(b: Builder, p: Parameter, new: Value) -> New:
    """The new parameter as it is kept, and its copy, which the fuser makes parts of the same kernel."""
    if p.value.type.dtype is not DType.f32:
        return {"": p.rounded(b, new, p.value.type.dtype)}
    return {"": new} | ({f".{p.copy}": p.rounded(b, new, DType(p.copy))} if p.copy else {})


OPTIMIZERS: dict[str, Rule] = {
    "adamw": adamw,
    "adam": adam,
    "sgd": sgd,
    "lion": averaged("lion"),
    "tiger": averaged("tiger"),
}
"""Name -> the rule, which takes the constants that `RATES` has for it."""
