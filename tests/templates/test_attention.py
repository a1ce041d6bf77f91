"""attention and attention_grad against NumPy in float64, with bounds that follow the errors through the formulas."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gptc.codegen.target import Target
from tests.templates.kernel_library import BF16, TARGETS, TILE, UNIT, WIDEST, Library, assert_within

SCALE = 0.3125
ROUNDING = 2.0**-8  # the rounding unit of bf16
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 4, 2, 65, 17),
    (1, 2, 2, 64, 64),
    (2, 3, 1, 130, 40),
    (1, 2, 1, 257, 32),
    (3, 2, 2, 7, 5),
    (1, 1, 1, 401, 8),
]


@pytest.fixture(scope="module", params=TARGETS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    return build(tmp_path_factory.mktemp("attention"), TARGETS[request.param], "f32")


@pytest.fixture(scope="module", params=[next(iter(TARGETS)), "amx"])
def narrow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    amx = request.param == "amx"
    if not (WIDEST.instructions.vector == TILE if amx else BF16):
        pytest.skip("this machine has no AVX-512" if amx else "this machine has no AVX512_BF16")
    return build(tmp_path_factory.mktemp("attention_bf16"), WIDEST, "bf16", amx)


def build(folder: Path, target: Target, dtype: str, amx: bool = False) -> Library:
    blocking = {} if amx else {"dtype": dtype, "MR": target.instructions.attention_rows}
    kernels = {
        f"{template}_{kind}": (
            f"{template}_amx" if amx else template,
            {"causal": kind == "causal", "scale": SCALE, **blocking},
        )
        for template in ("attention", "attention_grad")
        for kind in ("causal", "full")
    }
    return Library(folder, target, kernels)


@dataclass(frozen=True)
class Reference:
    """Attention and its gradient in float64; every `*_bound` is what f32 may lose."""

    out: np.ndarray
    out_bound: np.ndarray
    lse: np.ndarray
    lse_bound: np.ndarray
    grads: tuple[np.ndarray, ...]
    grad_bounds: tuple[np.ndarray, ...]


def reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, dout: np.ndarray, causal: bool, stored: np.ndarray | None = None,
    factor: float = 0,
) -> Reference:  # fmt: skip
    """`stored` is the output as the gradient finds it, where it was rounded; `factor` is how much of themselves
    probabilities and their gradients lose before they are multiplied."""
    q, k, v, dout = (x.astype(np.float64) for x in (q, k, v, dout))
    group, t, d = q.shape[1] // k.shape[1], q.shape[2], q.shape[3]
    kv_shape = (*k.shape[:2], group, t, d)
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    t_of = lambda x: x.swapaxes(-1, -2)  # noqa: E731
    fold = lambda x: x.reshape(kv_shape).sum(2)  # noqa: E731

    s = SCALE * q @ t_of(k)
    s = np.where(np.tri(t, dtype=bool) if causal else True, s, -np.inf)
    top = s.max(-1, keepdims=True)
    e = np.exp(s - top)
    p = e / e.sum(-1, keepdims=True)
    out = p @ v
    dp, delta = dout @ t_of(v), (dout * (out if stored is None else stored)).sum(-1, keepdims=True)
    ds = p * (dp - delta)

    # A sum of n terms loses 4 UNIT sqrt(n) of the size of its terms; exp and a division lose 4 UNIT more, and
    # an error in a score is a relative error in its probability.
    dot = 4 * UNIT * np.sqrt(d)
    score = dot * SCALE * (np.abs(q) @ t_of(np.abs(k))).max(-1, keepdims=True)
    prob = 2 * score + 4 * UNIT * (1 + np.sqrt(t))  # relative
    rest = 4 * UNIT * np.sqrt(t)
    dp_size = np.abs(dout) @ t_of(np.abs(v))
    ds_bound = p * (prob + dot) * (dp_size + (p * dp_size).sum(-1, keepdims=True)) + (rest + factor) * np.abs(ds)
    return Reference(
        out,
        (prob + factor) * (p @ np.abs(v)),
        (top + np.log(e.sum(-1, keepdims=True)))[..., 0],
        (score + 4 * UNIT * np.sqrt(t) + 2 * UNIT * np.abs(top))[..., 0],
        (SCALE * ds @ k, SCALE * fold(t_of(ds) @ q), fold(t_of(p) @ dout)),
        (
            SCALE * ds_bound @ np.abs(k),
            SCALE * fold(t_of(ds_bound) @ np.abs(q)),
            fold(t_of(p * (prob + rest + factor)) @ np.abs(dout)),
        ),
    )


def heads(rng: np.random.Generator, b: int, h: int, t: int, d: int) -> np.ndarray:
    """Random [B, H, T, D] that lies in memory as [B, T, H, D + 3]."""
    return rng.standard_normal((b, t, h, d + 3), dtype=np.float32).transpose(0, 2, 1, 3)[..., :d]


def strides(*tensors: np.ndarray) -> list[int]:
    return [s // x.itemsize for x in tensors for s in x.strides[:3]]


@pytest.mark.parametrize("kind", ["causal", "full"])
@pytest.mark.parametrize(("b", "h", "hkv", "t", "d"), SHAPES)
def test_attention_and_gradient(library: Library, kind: str, b: int, h: int, hkv: int, t: int, d: int) -> None:
    rng = np.random.default_rng([b, h, t, d])
    q, k, v, dout = (heads(rng, b, n, t, d) for n in (h, hkv, hkv, h))
    out, dq, dk, dv = (heads(rng, b, n, t, d) for n in (h, h, hkv, hkv))
    lse = np.zeros((b, h, t), np.float32)
    extents = [b, h, hkv, t, d]
    library.check_threads(f"attention_{kind}", [q, k, v], [out, lse], extents + strides(q, k, v, out))
    library.check_threads(
        f"attention_grad_{kind}",
        [dout, q, k, v, out, lse],
        [dq, dk, dv],
        extents + strides(dout, q, k, v, out, dq, dk, dv),
    )
    exact = reference(q, k, v, dout, kind == "causal")
    assert_within(out, exact.out, exact.out_bound)
    assert_within(lse, exact.lse, exact.lse_bound)
    for actual, expected, bound in zip((dq, dk, dv), exact.grads, exact.grad_bounds, strict=True):
        assert_within(actual, expected, bound)


@pytest.mark.parametrize("kind", ["causal", "full"])
@pytest.mark.parametrize(("b", "h", "hkv", "t", "d"), SHAPES)
def test_bf16(narrow: Library, kind: str, b: int, h: int, hkv: int, t: int, d: int) -> None:
    """Products of bf16, summed in f32; rounded once more when stored."""
    rng = np.random.default_rng([b, h, t, d])
    q, k, v, dout, out, dq, dk, dv = (
        heads(rng, b, n, t, d).astype(ml_dtypes.bfloat16, order="K") for n in (h, hkv, hkv, h, h, h, hkv, hkv)
    )
    lse = np.zeros((b, h, t), np.float32)
    extents = [b, h, hkv, t, d]
    narrow.check_threads(f"attention_{kind}", [q, k, v], [out, lse], extents + strides(q, k, v, out))
    exact = reference(q, k, v, dout, kind == "causal", factor=ROUNDING)
    assert_within(out, exact.out, exact.out_bound + ROUNDING * (np.abs(exact.out) + exact.out_bound))
    assert_within(lse, exact.lse, exact.lse_bound)
    narrow.check_threads(
        f"attention_grad_{kind}",
        [dout, q, k, v, out, lse],
        [dq, dk, dv],
        extents + strides(dout, q, k, v, out, dq, dk, dv),
    )
    exact = reference(q, k, v, dout, kind == "causal", out.astype(np.float64), ROUNDING)
    for actual, expected, bound in zip((dq, dk, dv), exact.grads, exact.grad_bounds, strict=True):
        assert_within(actual, expected, bound + ROUNDING * (np.abs(expected) + bound))


@pytest.mark.parametrize("t", [5, 70])
def test_hidden_keys_have_no_influence(library: Library, t: int) -> None:
    """What follows a query cannot reach its output: NaN keys, values of any finite size."""
    rng = np.random.default_rng(t)
    q, k, v = (heads(rng, 1, 1, t, 8) for _ in range(3))
    k[0, 0, 3:], v[0, 0, 3:] = np.nan, 1e30
    out, lse = heads(rng, 1, 1, t, 8), np.zeros((1, 1, t), np.float32)
    library.call("attention_causal", q, k, v, out, lse, 1, 1, 1, t, 8, *strides(q, k, v, out))
    exact = reference(q[:, :, :3], k[:, :, :3], v[:, :, :3], q[:, :, :3], causal=True)
    assert_within(out[:, :, :3], exact.out, exact.out_bound)


def test_a_negative_scale(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hidden keys stay hidden: out of q with scale -s is out of -q with scale s."""
    kernels = {
        f"{template}_{name}": (
            template,
            {"dtype": "f32", "causal": True, "scale": scale, "MR": WIDEST.instructions.attention_rows},
        )
        for template in ("attention", "attention_grad")
        for name, scale in (("plus", SCALE), ("minus", -SCALE))
    }
    library = Library(tmp_path_factory.mktemp("negative"), WIDEST, kernels)
    rng = np.random.default_rng(2)
    q, k, v, dout = (heads(rng, 1, 1, 70, 16) for _ in range(4))
    found = []
    for name, query in (("plus", q), ("minus", -q)):
        out, dq, dk, dv = (heads(rng, 1, 1, 70, 16) for _ in range(4))
        lse = np.zeros((1, 1, 70), np.float32)
        sizes = [1, 1, 1, 70, 16]
        library.call(f"attention_{name}", query, k, v, out, lse, *sizes, *strides(query, k, v, out))
        operands = dout, query, k, v, out
        steps = strides(*operands, dq, dk, dv)
        library.call(f"attention_grad_{name}", *operands, lse, dq, dk, dv, *sizes, *steps)
        found.append((out, lse, dq if name == "plus" else -dq, dk, dv))
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_large_scores_do_not_overflow(library: Library) -> None:
    rng = np.random.default_rng(1)
    q, k, v = (heads(rng, 1, 1, 90, 16) for _ in range(3))
    q *= 100
    out, lse = heads(rng, 1, 1, 90, 16), np.zeros((1, 1, 90), np.float32)
    library.call("attention_causal", q, k, v, out, lse, 1, 1, 1, 90, 16, *strides(q, k, v, out))
    exact = reference(q, k, v, q, causal=True)
    assert np.abs(exact.lse).max() > 88, "the case must need the maximum subtracted"
    assert_within(out, exact.out, exact.out_bound)
    assert_within(lse, exact.lse, exact.lse_bound)
