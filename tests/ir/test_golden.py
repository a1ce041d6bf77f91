"""Numbers worked out by hand or by others, and properties of single ops that no law of the registry states."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gptc.ir.body import body
from gptc.ir.build import Builder
from gptc.ir.graph import Value
from gptc.ir.interp import interpret
from gptc.ir.op import Op, ShapeError
from gptc.ir.ops.attention import Attention, AttentionGrad
from gptc.ir.ops.elementwise import Cast, CausalMask
from gptc.ir.ops.embedding import Embedding, ScatterAdd
from gptc.ir.ops.loss import CrossEntropy, CrossEntropyGrad
from gptc.ir.ops.matmul import Matmul
from gptc.ir.ops.norm import LayerNorm, RmsNorm
from gptc.ir.ops.optimizer import AdamW, GlobalNorm, SumSquares
from gptc.ir.ops.reduce import ReduceSum
from gptc.ir.ops.region import Gemm, Map
from gptc.ir.ops.rotary import Angles
from gptc.ir.ops.shape import BroadcastTo, Concat, Flip, Reshape, Split, Transpose, View
from gptc.ir.ops.softmax import Softmax
from gptc.ir.text import parse_type
from gptc.ir.types import Array, DType
from tests.ir.samples import f32


def array(*values: object) -> Array:
    return np.asarray(values, np.float32)


@pytest.mark.llmc(check="K6", golden="A14.12")
def test_layer_norm_of_one_row() -> None:
    y, mean, rstd = LayerNorm(eps=0.0).eval(array([2, -1, 3, 0]), np.ones(4, np.float32), np.zeros(4, np.float32))
    np.testing.assert_allclose(y[0], [0.632456, -1.264911, 1.264911, -0.632456], atol=1e-6)
    assert (mean.item(), rstd.item()) == (1.0, pytest.approx(1 / math.sqrt(2.5)))


def test_layer_norm_uses_the_biased_variance_and_eps() -> None:
    x, w, b = array([1, 3]), array(2, 10), array(0.5, -0.5)
    y, _, _ = LayerNorm(eps=3.0).eval(x, w, b)
    np.testing.assert_allclose(y, [[2 * -0.5 + 0.5, 10 * 0.5 - 0.5]])


def test_rms_norm_of_one_row() -> None:
    y, rstd = RmsNorm(eps=0.0).eval(array([3, 4, 0, 0]), np.ones(4, np.float32))
    np.testing.assert_allclose(y, [[1.2, 1.6, 0, 0]], rtol=1e-6)
    assert rstd.item() == pytest.approx(0.4)


def test_causal_softmax_is_exactly_zero_above_the_diagonal() -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 5)).astype(np.float32)
    x[:, 0, 3] = np.inf
    x[:, 1, 4] = np.nan
    (y,) = Softmax(causal=True).eval(x)
    assert np.all(y[:, ~np.tri(5, dtype=bool)] == 0)
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-6)
    assert y[0, 0, 0] == 1


def test_softmax_gives_no_weight_to_minus_infinity_and_survives_large_scores() -> None:
    (y,) = Softmax().eval(array([-np.inf, 1000, 1000, -np.inf]))
    np.testing.assert_array_equal(y, [[0, 0.5, 0.5, 0]])


def test_causal_softmax_is_softmax_of_masked_scores() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(Softmax(causal=True).eval(x)[0], Softmax().eval(*CausalMask().eval(x))[0])


def test_cross_entropy_of_equal_logits_is_the_log_of_the_classes() -> None:
    logits = np.full((2, 3, 64), 1000, np.float32)
    losses, lse = CrossEntropy(classes=50).eval(logits, np.zeros((2, 3, 1), np.int32))
    np.testing.assert_allclose(losses, math.log(50), atol=1e-4)
    np.testing.assert_allclose(lse, 1000 + math.log(50), rtol=1e-6)


def test_padded_classes_take_no_part() -> None:
    logits, targets = array([0.3, -1, 2, 0.7]), np.array([[2]], np.int32)
    padded = np.concatenate([logits, array([np.inf, np.nan, 1e30])], axis=-1)
    bare = CrossEntropy(classes=4).eval(logits, targets)
    for a, b in zip(bare, CrossEntropy(classes=4).eval(padded, targets), strict=True):
        np.testing.assert_array_equal(a, b)
    seed = array([1])
    (dx,) = CrossEntropyGrad(classes=4).eval(seed, padded, targets, bare[1])
    np.testing.assert_array_equal(dx[0, 4:], 0)
    np.testing.assert_array_equal(dx[:, :4], CrossEntropyGrad(classes=4).eval(seed, logits, targets, bare[1])[0])
    assert dx.sum() == pytest.approx(0, abs=1e-6)


@pytest.mark.llmc(check="K6", golden="A14.11")
def test_adamw_moves_as_pytorch_does() -> None:
    """One scalar parameter, one step: the numbers of torch.optim.AdamW(lr=1e-3, weight_decay=0.01)."""
    zero = np.zeros((), np.float32)
    lr, step, scale = (np.asarray(x, np.float32) for x in (0.001, 1, 1))
    p, m, v = AdamW(beta2=0.999, weight_decay=0.01).eval(np.float32(0.5), np.float32(0.2), zero, zero, lr, step, scale)
    assert p == pytest.approx(0.498995, abs=1e-7)
    assert m == pytest.approx(0.02, rel=1e-6)
    assert v == pytest.approx(4e-5, rel=1e-5)


def test_adamw_decays_without_a_gradient_and_scales_it() -> None:
    p, g, zero = array(2, -2), array(0.4, 0.4), array(0, 0)
    lr, step = np.float32(0.1), np.float32(1)
    still = AdamW(weight_decay=0.5).eval(p, zero, zero, zero, lr, step, np.float32(1))[0]
    np.testing.assert_allclose(still, p * 0.95)
    halved = AdamW().eval(p, g, zero, zero, lr, step, np.float32(0.5))
    for a, b in zip(halved, AdamW().eval(p, g / 2, zero, zero, lr, step, np.float32(1)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_global_norm_of_a_long_vector() -> None:
    """Squares beyond float32 would overflow; many small ones would be lost."""
    (big,) = SumSquares().eval(array(1e19, 1e-3))
    assert big == pytest.approx(1e38)
    (small,) = SumSquares().eval(np.full(1_000_000, 1e-3, np.float32))
    assert small == pytest.approx(1.0, rel=1e-6)
    assert GlobalNorm().eval(np.float32(9), np.float32(16))[0] == 5


def test_repeated_ids_add_up_in_order() -> None:
    base, ids = np.ones((3, 2), np.float32), np.array([[2, 0], [2, 2]], np.int32)
    dy = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    (y,) = ScatterAdd().eval(base, ids, dy)
    np.testing.assert_array_equal(y, [[3, 4], [1, 1], [11, 14]])
    np.testing.assert_array_equal(base, 1)


def test_scatter_add_sums_in_float32() -> None:
    """256 + 1 is no bfloat16 number: rounding each sum would lose all the ones."""
    bf16 = DType.bf16.numpy
    (y,) = ScatterAdd().eval(np.full((1, 1), 256, bf16), np.zeros(8, np.int32), np.ones((8, 1), bf16))
    assert y.item() == 264


def test_cast_rounds_to_nearest_even() -> None:
    """bfloat16 keeps 8 bits: 257 lies between 256 and 258, 259 between 258 and 260."""
    (y,) = Cast(dtype=DType.bf16).eval(array(257, 259, 1.0))
    np.testing.assert_array_equal(y.astype(np.float32), [256, 260, 1])


HEADS = [(3, 3), (4, 2), (4, 1)]


def from_primitives(b: Builder, op: Attention, q: Value, k: Value, v: Value) -> Value:
    """`out` of attention, scores and all."""
    batch, heads, length, size = q.type.shape
    few = k.type.shape[1]

    def repeat(x: Value) -> Value:
        apart = b.reshape(x, shape=(batch, few, 1, length, size))
        copies = b.broadcast_to(apart, shape=(batch, few, heads // few, length, size))
        return b.reshape(copies, shape=(batch, heads, length, size))

    scores = b.mul(b.matmul(q, repeat(k), trans_b=True), b.scalar(op.scale, q.type.dtype))
    return b.matmul(b.softmax(scores, causal=op.causal), repeat(v))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "few"), HEADS)
def test_attention_is_what_its_primitives_compute(heads: int, few: int, causal: bool) -> None:
    b = Builder("attention")
    shapes = {"q": (2, heads, 5, 4), "k": (2, few, 5, 4), "v": (2, few, 5, 4)}
    q, k, v = (b.input(key=key, shape=shape) for key, shape in shapes.items())
    op = Attention(scale=0.5, causal=causal)
    b.output("whole", b.apply(op, (q, k, v))[0])
    b.output("parts", from_primitives(b, op, q, k, v))
    rng = np.random.default_rng(0)
    feeds = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    found = interpret(b.build(), feeds, wide=True)
    np.testing.assert_allclose(found["whole"], found["parts"], rtol=0, atol=1e-14)


def test_attention_lse_normalises_the_scores() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, 6, 4)) for _ in range(3))
    _, lse = Attention(scale=0.5, causal=True).eval(q, k, v)
    scores = 0.5 * np.matmul(q, k.swapaxes(-1, -2))
    p = np.exp(scores - lse[..., None]) * np.tri(6)
    np.testing.assert_allclose(p.sum(-1), 1)


def test_packed_gradient_is_the_three_side_by_side() -> None:
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((2, 4, 5, 3)), rng.standard_normal((2, 2, 5, 3)), rng.standard_normal((2, 2, 5, 3))
    out, lse = Attention(scale=0.5, causal=True).eval(q, k, v)
    operands = (rng.standard_normal(q.shape), q, k, v, out, lse)
    apart = AttentionGrad(scale=0.5, causal=True).eval(*operands)
    (packed,) = AttentionGrad(scale=0.5, causal=True, packed=True).eval(*operands)
    at = 0
    for grad in apart:
        for head in range(grad.shape[1]):
            np.testing.assert_array_equal(packed[:, :, at : at + 3], grad[:, head])
            at += 3
    assert packed.shape == (2, 5, at)


def test_merged_attention_has_the_heads_of_a_position_side_by_side() -> None:
    """What follows reads [B, T, H D] out of the same memory."""
    b = Builder("merged")
    q = b.input(key="q", shape=(2, 3, 5, 4))
    apart, _ = b.attention(q, q, q)
    merged, _ = b.attention(q, q, q, merged=True)
    assert merged.type.strides == (60, 4, 12, 1)
    b.output("want", b.reshape(b.transpose(apart, perm=(0, 2, 1, 3)), shape=(2, 5, 12)))
    b.output("have", b.view(merged, shape=(2, 5, 12), strides=(60, 12, 1)))
    found = interpret(b.build(), {"q": np.random.default_rng(0).standard_normal((2, 3, 5, 4))})
    np.testing.assert_array_equal(found["have"], found["want"])


def test_gemm_rounds_once() -> None:
    """A bfloat16 product goes to the epilogue in float32: 256 + 1 - 256 is 1."""
    a, b = array([16, 1]).astype(DType.bf16.numpy), array([16], [1]).astype(DType.bf16.numpy)
    (product,) = Matmul().eval(a, b)
    assert (product.dtype, product.item()) == (np.float32, 257), "a product is not rounded"
    (y,) = Gemm(body=body("acc", "y", "y = acc - 256"), dtypes=("bf16",)).eval(a, b)
    assert y.item() == 1


MISTAKES: list[tuple[Op, tuple[str, ...], str]] = [
    (LayerNorm(), ("f32[3,8]", "f32[7]", "f32[8]"), "weight f32[7] must match the last axis of f32[3,8]"),
    (RmsNorm(), ("f32[]", "f32[]"), "needs an axis to normalise over, got f32[]"),
    (Softmax(causal=True), ("f32[8]",), "a causal softmax needs two axes, got f32[8]"),
    (CrossEntropy(classes=5), ("f32[3,4]", "i32[3,1]"), "classes (5) must lie in 1 .. 4"),
    (CrossEntropy(classes=4), ("f32[3,4]", "i32[3]"), "targets i32[3] must be one a row of logits f32[3,4]"),
    (CrossEntropy(classes=4), ("f32[3,4]", "f32[3,1]"), "targets are class indices in i32, got f32[3,1]"),
    (Embedding(), ("f32[3,4]", "f32[2]"), "indices are i32, got f32[2]"),
    (Embedding(), ("f32[3]", "i32[2]"), "the table must be a matrix [V, C], got f32[3]"),
    (
        ScatterAdd(),
        ("f32[3,4]", "i32[2]", "f32[2,5]"),
        "rows f32[2,5] must be one of f32[3,4] for each",
    ),
    (Attention(), ("f32[1,3,5,4]",) + ("f32[1,2,5,4]",) * 2, "the heads of q f32[1,3,5,4] must be a multiple"),
    (Attention(), ("f32[1,2,5,4]",) + ("f32[1,2,6,4]",) * 2, "may differ in the number of heads only"),
    (AdamW(), ("f32[3]", "f32[4]", "f32[3]", "f32[3]", "f32[]", "f32[]", "f32[]"), "gradient f32[4] must match"),
    (Matmul(), ("f32[3,4]", "f32[3,4]"), "inner sizes differ: f32[3,4] has 4, f32[3,4] has 3"),
    (Reshape(shape=(5,)), ("f32[2,3]",), "cannot give f32[2,3] the shape [5]"),
    (Transpose(perm=(0, 0)), ("f32[2,3]",), "[0, 0] is no permutation of the axes of f32[2,3]"),
    (Split(parts=2), ("f32[2,3]",), "axis -1 of f32[2,3] does not divide into 2 parts"),
    (Split(sizes=(1, 1)), ("f32[2,3]",), "axis -1 of f32[2,3] is not 1 + 1"),
    (Concat(), ("f32[2,3]", "f32[3,3]"), "cannot join f32[2,3] and f32[3,3] along axis -1"),
    (BroadcastTo(shape=(2, 4)), ("f32[2,3]",), "f32[2,3] does not broadcast to [2, 4]"),
    (ReduceSum(axes=(1,)), ("f32[2,3,4]",), "axes [1] of f32[2,3,4] are neither the first nor the last ones"),
    (View(shape=(4,), strides=(1,), offset=3), ("f32[2,3]",), "the view reaches element 6 of f32[2,3]"),
    (View(shape=(2, 3), strides=(3, -1), offset=1), ("f32[2,3]",), "the view reaches element -1 of f32[2,3]"),
    (Flip(axis=2), ("f32[2,3]",), "f32[2,3] has no axis 2"),
    (Angles(size=5), ("i32[4,1,1]",), "turns pairs of numbers, and 5 is no even number of them"),
    (Angles(size=4), ("i32[4]",), "needs whole numbers [T, 1, 1], got i32[4]"),
    (Angles(size=4, theta=-1.0), ("i32[4,1,1]",), "theta must be positive, got -1"),
    (Map(dtypes=("f32", "f32")), ("f32[3]",), "has 1 results and 2 dtypes"),
]


@pytest.mark.parametrize(("op", "types", "message"), MISTAKES, ids=lambda p: p.name if isinstance(p, Op) else "")
def test_mistakes_are_named(op: Op, types: tuple[str, ...], message: str) -> None:
    with pytest.raises(ShapeError) as caught:
        op.infer(*map(parse_type, types))
    assert message in str(caught.value)


def test_names_of_sizes_survive() -> None:
    """Messages and emitted comments say `T=64`, not 64."""
    x = parse_type("f32[B=2,T=6,C=8]")
    y, mean, _ = LayerNorm().infer(x, f32(8), f32(8))
    assert (str(y), str(mean)) == ("f32[B=2,T=6,C=8]", "f32[B=2,T=6,1]")
    assert str(Embedding().infer(parse_type("f32[V=5,C=8]"), parse_type("i32[B=2,T=6]"))[0]) == "f32[B=2,T=6,C=8]"
