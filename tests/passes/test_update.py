"""Whole training steps, interpreted: AdamW and clipping against the formulas, micro-steps against one big batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from gptc.codegen.target import target_for
from gptc.errors import InputError
from gptc.ir.analysis import buffers
from gptc.ir.graph import Graph
from gptc.ir.interp import interpret
from gptc.ir.ops.random import Seeds, StochasticRound
from gptc.ir.ops.region import Gemm
from gptc.ir.types import Array, DType
from gptc.options import Options
from gptc.passes import pipelines
from gptc.passes.differentiate import Differentiate, parameters
from gptc.passes.manager import Context
from gptc.passes.memory import plan_programs
from tests.passes.gpt2 import Gpt2, Training, compiled, feeds, tolerance

SIZES = Gpt2()


def run(graph: Graph, memory: dict[str, Array]) -> Mapping[str, Array]:
    """Run a program and store what it stores."""
    results = interpret(graph, memory, wide=True)
    memory |= {name: array for name, array in results.items() if name in memory}
    return results


def start(programs: Mapping[str, Graph], seed: int) -> dict[str, Array]:
    """Memory before the first step: state is zero."""
    memory: dict[str, Array] = {}
    for graph in programs.values():
        memory |= feeds(graph, seed, SIZES.V)
    state = [name for name in memory if name.endswith((".m", ".v", ".grad"))]
    memory |= {name: np.zeros_like(memory[name]) for name in state}
    return memory | {"lr": np.asarray(1e-2), "max_norm": np.asarray(0.0), "max_loss": np.asarray(0.0)}


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e3])
def test_two_steps_of_adamw(clip: float) -> None:
    training = Training(clip=clip)
    graph = SIZES.graph()
    step = compiled(graph, Options(), training)["step"]
    gradients = Differentiate().run(graph, Context())
    memory = start({"step": step}, seed=0)
    expected = dict(memory)
    for number in (1, 2):
        expected |= adamw(gradients, expected, number, training)
        memory["step"] = np.asarray(float(number))
        found = run(step, memory)
        np.testing.assert_allclose(found["norm"], expected.pop("norm"), atol=tolerance(step, np.asarray(1.0)))
        for name in found.keys() & memory.keys():
            # The update divides by the root of a tiny second moment, and so magnifies rounding by up to 1 / eps.
            np.testing.assert_allclose(memory[name], expected[name], atol=1e-2 * tolerance(step, memory[name]) / 1e-8)


def adamw(graph: Graph, memory: dict[str, Array], number: int, t: Training) -> dict[str, Array]:
    """One step by the formulas of Loshchilov and Hutter 2019, in float64."""
    results = interpret(graph, memory, wide=True)
    grads = {key: results[f"grad:{key}"] for key in parameters(graph)}
    norm = np.sqrt(sum(np.sum(g * g) for g in grads.values()))
    new: dict[str, Array] = {"norm": norm}
    for key, node in parameters(graph).items():
        g = grads[key] * (t.clip / norm if 0 < t.clip < norm else 1)
        m = t.beta1 * memory[f"{key}.m"] + (1 - t.beta1) * g
        v = t.beta2 * memory[f"{key}.v"] + (1 - t.beta2) * g * g
        change = m / (1 - t.beta1**number) / (np.sqrt(v / (1 - t.beta2**number)) + t.eps)
        decay = t.weight_decay if node.op.decay else 0  # type: ignore[attr-defined]
        p = memory[key]
        new |= {key: p - memory["lr"] * (change + decay * p), f"{key}.m": m, f"{key}.v": v}
    return new


@pytest.mark.parametrize("micro_steps", [2, 3])
def test_micro_steps_add_up_to_a_big_batch(micro_steps: int) -> None:
    """Gradients of the mean loss over all sequences, whatever is left in the buffers from the step before."""
    whole = Differentiate().run(replace(SIZES, B=SIZES.B * micro_steps).graph(), Context())
    programs = compiled(SIZES.graph(), Options(micro_steps=micro_steps), Training())
    assert list(programs) == ["micro_step", "update", "evaluate"]
    memory = start(programs, seed=0)
    memory |= {name: np.full_like(memory[name], 7) for name in memory if name.endswith(".grad")}
    big = feeds(whole, 1, SIZES.V)
    losses = []
    for number in range(micro_steps):
        batch = slice(number * SIZES.B, (number + 1) * SIZES.B)
        memory |= {key: big[key][batch] for key in ("tokens", "targets")} | {"first": np.asarray(float(number == 0))}
        losses.append(run(programs["micro_step"], memory)["loss"])
    expected = interpret(whole, memory | {key: big[key] for key in ("tokens", "targets")}, wide=True)
    np.testing.assert_allclose(np.mean(losses), expected["loss"], atol=tolerance(whole, expected["loss"]))
    for key in parameters(whole):
        grad = expected[f"grad:{key}"]
        np.testing.assert_allclose(memory[f"{key}.grad"], grad, atol=tolerance(whole, grad), err_msg=key)


def test_gradients_are_added_where_they_are_made() -> None:
    """However deep the model: by the products themselves, and for the tied table in the sum's own memory."""
    graph = replace(SIZES, L=8).graph()
    step = compiled(graph, Options(micro_steps=2), Training())["micro_step"]
    params = parameters(graph)
    matrices = {key for key, node in params.items() if node.results[0].type.rank == 2}
    made = [n for n in step.nodes if isinstance(n.op, Gemm) and "accumulate" in n.op.parts]
    assert {n.name.split(".collected")[0] for n in made} == matrices - {"wpe"}
    (planned,), _ = plan_programs([step], Context())
    sums = [n for n in planned.nodes if ".collected" in n.name]
    assert len(sums) == len(params) + 1, "rows are scattered into the table's"
    for node in sums:
        key = node.name.split(".collected")[0]
        assert planned.plan[node.name] == planned.plan[buffers(planned)[f"{key}.grad"].name]


def test_the_update_follows_the_micro_steps() -> None:
    """One batch as a step, and as the two programs of several micro-steps, each weighted by its share."""
    training = Training()
    one = compiled(SIZES.graph(), Options(), training)
    many = compiled(SIZES.graph(), Options(micro_steps=2), training)
    first, second = start(one, seed=3), start(many, seed=3)
    second |= {key: first[key] for key in ("tokens", "targets")}
    for number in (0, 1):
        second["first"] = np.asarray(1.0 - number)
        run(many["micro_step"], second)
    run(many["update"], second)
    run(one["step"], first)
    for key in parameters(one["step"]):
        np.testing.assert_allclose(second[key], first[key], atol=1e-2 * tolerance(one["step"], first[key]) / 1e-8)


def test_a_step_without_clipping_still_tells_the_norm() -> None:
    step = compiled(SIZES.graph(), Options(), Training(clip=0))["step"]
    assert {"loss", "norm"} <= {o.name for o in step.outputs}


@dataclass(frozen=True)
class By:
    """Training with another optimizer."""

    optimizer: str
    rates: dict[str, float]
    clip: float = 0.5
    master_weights: bool = True
    rounding: str = "nearest"


def sgd(p: Array, g: Array, m: Array, v: Array, lr: float, t: int, r: dict[str, float]) -> tuple[Array, ...]:
    m = r["momentum"] * m + (g + r["weight_decay"] * p)
    return p - lr * m, m


def lion(p: Array, g: Array, m: Array, v: Array, lr: float, t: int, r: dict[str, float]) -> tuple[Array, ...]:
    change = np.sign(r["beta1"] * m + (1 - r["beta1"]) * g) + r["weight_decay"] * p
    return p - lr * change, r["beta2"] * m + (1 - r["beta2"]) * g


def tiger(p: Array, g: Array, m: Array, v: Array, lr: float, t: int, r: dict[str, float]) -> tuple[Array, ...]:
    m = r["beta1"] * m + (1 - r["beta1"]) * g
    return p - lr * np.where(m > 0, 0.5, -0.5), m


def adam(p: Array, g: Array, m: Array, v: Array, lr: float, t: int, r: dict[str, float]) -> tuple[Array, ...]:
    m, v = r["beta1"] * m + (1 - r["beta1"]) * g, r["beta2"] * v + (1 - r["beta2"]) * g * g
    rate = lr * np.sqrt(1 - r["beta2"] ** t) / (1 - r["beta1"] ** t)
    return p - rate * m / (np.sqrt(v) + r["eps"]), m, v


OTHERS = {
    "sgd": (By("sgd", {"momentum": 0.9, "weight_decay": 0.1}), sgd),
    "sgd without momentum": (By("sgd", {"momentum": 0.0, "weight_decay": 0.0}), sgd),
    "lion": (By("lion", {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1}), lion),
    "tiger": (By("tiger", {"beta1": 0.96875}), tiger),
    "adam": (By("adam", {"beta1": 0.9, "beta2": 0.95, "eps": 1e-3}), adam),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_optimizers(name: str) -> None:
    """Two steps by the formulas, in float64; decay is for the decay group alone."""
    training, formula = OTHERS[name]
    graph = SIZES.graph()
    step = compiled(graph, Options(), training)["step"]
    gradients = Differentiate().run(graph, Context())
    memory = start({"step": step}, seed=0)
    for number in (1, 2):
        memory["step"] = np.asarray(float(number))
        results = interpret(gradients, memory, wide=True)
        grads = {key: results[f"grad:{key}"] for key in parameters(graph)}
        norm = np.sqrt(sum(np.sum(g * g) for g in grads.values()))
        before = dict(memory)
        run(step, memory)
        for key, node in parameters(graph).items():
            rates = dict(training.rates)
            if not node.op.decay:  # type: ignore[attr-defined]
                rates["weight_decay"] = 0.0
            zero = np.zeros_like(before[key])
            state = [before.get(f"{key}.{s}", zero) for s in ("m", "v")]
            grad = grads[key] * min(1, training.clip / norm)
            new = formula(before[key], grad, *state, float(before["lr"]), number, rates)
            for suffix, value in zip(("", ".m", ".v"), new, strict=False):
                if key + suffix in memory:  # the sign of a gradient that is zero but for rounding is anybody's guess
                    told = (np.abs(grad) > 1e-12) | (name not in ("lion", "tiger"))
                    np.testing.assert_allclose(memory[key + suffix][told], value[told], atol=1e-9, err_msg=key + suffix)
    assert ("wte.m" in memory) == (name != "sgd without momentum")
    assert ("wte.v" in memory) == (name == "adam")


@pytest.mark.parametrize("name", ["adamw", *OTHERS])
def test_skipped_updates_change_nothing(name: str) -> None:
    """A loss or norm above its limit or not finite: weights, moments and copies keep their bits.  Below, they move."""
    training = Training() if name == "adamw" else OTHERS[name][0]
    step = compiled(SIZES.graph(), Options(precision="bf16"), training)["step"]
    start_memory = start({"step": step}, seed=0) | {"step": np.asarray(1.0)}
    run(step, start_memory)
    found = run(step, dict(start_memory))
    loss, norm = (np.asarray(found[key], np.float32) for key in ("loss", "norm"))
    assert found["clip_scale"] > 0
    spoilt = {"ln_f.b": np.full_like(start_memory["ln_f.b"], np.nan)}
    below = {"max_loss": np.nextafter(loss, np.float32(0))}, {"max_norm": np.nextafter(norm, np.float32(0))}
    for change in (*below, {"max_norm": np.asarray(-1.0)}, spoilt):
        memory = {key: np.asarray(x) for key, x in (start_memory | change).items()}
        before = dict(memory)
        assert run(step, memory)["clip_scale"] == 0
        assert {key for key in memory if memory[key].tobytes() != before[key].tobytes()} == set(), change
    above = {"max_loss": np.nextafter(loss, np.float32(9)), "max_norm": np.nextafter(norm, np.float32(9))}
    memory = start_memory | above
    assert run(step, memory)["clip_scale"] == found["clip_scale"]
    assert memory["wte"].tobytes() != start_memory["wte"].tobytes()


@pytest.mark.parametrize("name", ["adamw", *OTHERS])
def test_every_optimizer_rounds_its_copies_at_random(name: str) -> None:
    """A copy is the new parameter rounded with this step's bits of its tensor, and `refresh` makes it again."""
    training = replace(OTHERS[name][0] if name in OTHERS else Training(), rounding="stochastic")
    programs = compiled(SIZES.graph(), Options(precision="bf16"), training)
    memory = start(programs, seed=0) | {"step": np.asarray(9.0, np.float32)}
    memory |= interpret(programs["step"], memory)
    (seeds,) = Seeds(len(parameters(programs["step"]))).eval(memory["step"])
    assert np.array_equal(memory["seeds"], seeds)
    again = interpret(programs["refresh"], memory)
    assert again
    assert again.keys() == {key for key in memory if key.endswith(".bf16")}
    for number, key in enumerate(parameters(programs["step"])):
        if f"{key}.bf16" in again:
            (expected,) = StochasticRound().eval(memory[key], seeds[number])
            assert memory[f"{key}.bf16"].tobytes() == again[f"{key}.bf16"].tobytes() == expected.tobytes(), key


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("name", ["adamw", *OTHERS])
def test_every_optimizer_does_without_masters(name: str, rounding: str) -> None:
    """The same update as with masters that bf16 holds, then rounded; moments stay f32, and so does what no product
    reads."""
    training = replace(OTHERS[name][0] if name in OTHERS else Training(), rounding=rounding)
    graph, options = SIZES.graph(), Options(precision="bf16")
    wide = compiled(graph, options, training)
    narrow = compiled(graph, options, replace(training, master_weights=False))
    assert "refresh" not in narrow
    held = {k for k, n in parameters(narrow["step"]).items() if n.results[0].type.dtype is DType.bf16}
    assert held == {k.removesuffix(".bf16") for k in interpret(wide["refresh"], start(wide, seed=0))}
    memory = start(narrow, seed=0) | {"step": np.asarray(9.0, np.float32)}
    memory |= {key: memory[key].astype(DType.bf16.numpy) for key in held}
    given = {key: array.astype(np.float32) if key in held else array for key, array in memory.items()}
    given |= {f"{key}.bf16": memory[key] for key in held} | {"seeds": np.zeros(len(parameters(graph)), np.int32)}
    expected, found = interpret(wide["step"], given), interpret(narrow["step"], memory)
    for key, array in found.items():
        same = expected[f"{key}.bf16" if key in held else key]
        assert (array.dtype, array.tobytes()) == (same.dtype, same.tobytes()), key


def test_what_rounding_needs_is_asked_for() -> None:
    """Without bf16 weights there is nothing to round, and nothing is ignored in silence."""
    for training in (Training(rounding="stochastic"), Training(master_weights=False)):
        with pytest.raises(InputError, match=r"train\.\w+: \w+ is of weights in bf16, and --precision is f32"):
            pipelines(Options(), training)


F16 = Options(target="cuda", precision="f16")


@pytest.mark.parametrize("micro_steps", [1, 2])
def test_a_loss_scale_leaves_the_update_as_it_is(micro_steps: int) -> None:
    """Gradients are computed times the scale; norm, clipping and update are those without.  In float64."""
    programs = compiled(SIZES.graph(), replace(F16, micro_steps=micro_steps), Training())
    found = []
    for scale in (1.0, 1024.0):
        memory = start(programs, seed=0) | {"step": np.asarray(1.0), "loss_scale": np.asarray(scale)}
        for name in ("step",) if micro_steps == 1 else ("micro_step", "update"):
            results = dict(run(programs[name], memory))
        found.append((memory, results))
    (plain, expected), (scaled, results) = found
    assert results["norm"] == pytest.approx(expected["norm"], rel=1e-12)
    assert results["clip_scale"] == pytest.approx(expected["clip_scale"], rel=1e-12)
    for key in parameters(programs["evaluate"]):
        np.testing.assert_allclose(scaled[key], plain[key], rtol=1e-9, atol=1e-12, err_msg=key)


def test_gradients_beyond_f16_skip_the_update() -> None:
    """In f16 itself: at a small scale the step moves, at a large one the norm is infinite and no bit changes."""
    step = compiled(SIZES.graph(), F16, Training())["step"]
    memory = start({"step": step}, seed=0) | {"step": np.asarray(1.0)}
    for scale, moves in ((256.0, True), (2.0**30, False)):
        results = interpret(step, memory | {"loss_scale": np.asarray(scale)})
        assert np.isfinite(results["norm"]) == moves
        assert (results["clip_scale"] > 0) == moves
        assert np.array_equal(results["wte"], memory["wte"].astype(np.float32)) != moves


def test_f16_is_for_gpus() -> None:
    with pytest.raises(InputError, match="target c has no kernels for f16"):
        target_for(Options(precision="f16"))
