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


Rates = Mapping[str, float]
"""Those of `OPTIMIZERS` that the optimizer has."""
New = dict[str, Value]
"""Suffix of a buffer -> its new value: empty for the parameter, `.m` for the state m, `.bf16` for a copy."""
Rule = Callable[[Builder, Parameter, Rates, str], New]
"""Takes the rates and a label; appends the step."""


def adamw(b: Builder, p: Parameter, rates: Rates, label: str, *, eps_hat: bool = False) -> New:
    operands = p.value, p.grad, p.state("m"), p.state("v"), p.lr, p.step, p.scale
    new = b.adamw(*operands, label=label, copy=p.copy, eps_hat=eps_hat, **rates)
    return dict(zip(("", ".m", ".v", f".{p.copy}"), new, strict=False))


def adam(b: Builder, p: Parameter, rates: Rates, label: str) -> New:
    return adamw(b, p, {**rates, "weight_decay": 0.0}, label, eps_hat=True)


def averaged(op: str) -> Rule:
    """The rule of an optimizer whose only state is an average m: `op` makes the new parameter and the new m."""

    def rule(b: Builder, p: Parameter, rates: Rates, label: str) -> New:
        new, m = getattr(b, op)(p.value, p.grad, p.state("m"), p.lr, p.scale, label=label, **rates)
        return _copied(b, p, {"": new, ".m": m})

    return rule


def sgd(b: Builder, p: Parameter, rates: Rates, label: str) -> New:
    if rates["momentum"]:
        return averaged("sgd")(b, p, rates, label)
    return _copied(b, p, {"": b.sgd(p.value, p.grad, p.lr, p.scale, label=label, **rates)})


def _copied(b: Builder, p: Parameter, new: New) -> New:
    """Also the copy of the new parameter, which the fuser makes part of the same kernel."""
    return new | ({f".{p.copy}": b.cast(new[""], dtype=DType(p.copy))} if p.copy else {})


OPTIMIZERS: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "adamw": (adamw, ("beta1", "beta2", "eps", "weight_decay")),
    "adam": (adam, ("beta1", "beta2", "eps")),
    "sgd": (sgd, ("momentum", "weight_decay")),
    "lion": (averaged("lion"), ("beta1", "beta2", "weight_decay")),
    "tiger": (averaged("tiger"), ("beta1",)),
}
"""Name -> the rule and the rates that it takes."""
