"""Token by token from caches is what the whole sequence gives, or the pass says why it would not be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptc.ir.graph import Graph
from gptc.ir.interp import interpret
from gptc.ir.ops.leaf import Buffer
from gptc.ir.types import Array
from gptc.model import build_graph, load_description
from gptc.options import Options
from gptc.passes import can_cache, recognise
from gptc.passes.cache import Cache
from gptc.passes.manager import Context, run_pass, run_pipeline

BATCH, LENGTH = 2, 8

MODEL = """\
model: small
tokenizer: bytes
dims: {{V: 13, T: 8, H: 4, G: 2, C: 16, D: C / H}}
params:
  wte: {{shape: [V, C], init: normal(1)}}
{params}
graph:
  x: embedding(wte, tokens)
{graph}
  logits: linear(y, wte){bias}
  loss: cross_entropy(logits, targets)
"""
QKV = {"qkv.w": "[3*C, C]"}
Q_KV = {"to_q": "[C, C]", "to_kv": "[2*G*D, C]"}
HEADS = "q, k, v: heads(linear(a, qkv.w), 3, H)"
MERGED = "y: x + merge_heads(attention(q, k, v))"

CACHED: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "a table of positions": ({"wpe": "[T, C]", **QKV}, ("a: x + embedding(wpe, positions)", HEADS, MERGED)),
    "few heads": (
        {**Q_KV, "g": "[C]"},
        (
            "a: rms_norm(x, g)",
            "q: heads(linear(a, to_q), 1, H)",
            "k, v: heads(linear(a, to_kv), 2, G)",
            "y: silu(a) * merge_heads(attention(q, k, v)) / 2",
        ),
    ),
    "shapes": (
        {**QKV, "both": "[C, 2*C]"},
        (
            "a: silu(x)",
            HEADS,
            "b, c: split(transpose(attention(q, k, v), 0, 2, 1, 3), 2)",
            "y: linear(reshape(concat(c, b, reshape(x, B, T, H, D)), B, T, 2*C), both)",
        ),
    ),
    "two attentions": (
        QKV,
        ("a: silu(x)", HEADS, "z: x + merge_heads(attention(q, k, v))", "y: z + merge_heads(attention(v, q, k))"),
    ),
}
REFUSED: dict[str, tuple[dict[str, str], tuple[str, ...], str]] = {
    "no mask": (
        QKV,
        ("a: silu(x)", HEADS, "y: x + merge_heads(matmul(softmax(matmul_nt(q, k)), v))"),
        "attention of %",
    ),
    "scores that two read": (
        QKV,
        (
            "a: silu(x)",
            HEADS,
            "s: softmax(causal_mask(matmul_nt(q, k)))",
            "y: x + merge_heads(matmul(s, v) + matmul(s, k))",
        ),
        "matmul of %",
    ),
    "a norm over positions": (
        {"g": "[T]"},
        ("y: transpose(rms_norm(transpose(x, 0, 2, 1), g), 0, 2, 1)",),
        "rms_norm of %",
    ),
    "positions in pairs": (
        {"pair": "[2*C, 2*C]"},
        ("y: reshape(linear(reshape(x, B, H, 2*C), pair), B, T, C)",),
        "reshape of %",
    ),
}


def graph_of(folder: Path, params: dict[str, str], statements: tuple[str, ...], bias: bool = False) -> Graph:
    """A model of these parameters and statements, after the passes that find attention."""
    shapes = params | ({"bias": "[V]"} if bias else {})
    lines = "".join(f"  {name.replace('.', ': {')}: {{shape: {shape}, init: normal(1)}}{'}' * name.count('.')}\n"
                    for name, shape in shapes.items())  # fmt: skip
    body = "".join(f"  {line}\n" for line in statements)
    path = folder / "small.yaml"
    path.write_text(MODEL.format(params=lines.rstrip("\n"), graph=body.rstrip("\n"), bias=" + bias" * bias))
    built = build_graph(load_description(path), BATCH, LENGTH, with_loss=False)
    return run_pipeline(built, recognise(Options()), Context())


def weights(graph: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    return {n.op.key: rng.standard_normal(n.op.shape) / 2 for n in graph.nodes if isinstance(n.op, Buffer)}


def run(graph: Graph, feeds: dict[str, Array], **inputs: Array) -> Array:
    """Logits; the caches among the feeds move on."""
    outputs = interpret(graph, feeds | inputs, wide=True)
    feeds |= {key: array for key, array in outputs.items() if key != "logits"}
    return outputs["logits"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", CACHED)
def test_equals_the_whole_sequence(tmp_path: Path, name: str, bias: bool) -> None:
    """A prompt of three in one call of four, then one by one: float64, so nothing but the order of sums differs."""
    graph = graph_of(tmp_path, *CACHED[name], bias)
    assert can_cache(graph, Options(), Context())
    prefill, decode = (run_pass(graph, Cache(tokens), Context()) for tokens in (4, 1))
    ids = np.random.default_rng(4).integers(0, 13, (BATCH, LENGTH))
    expected = run(graph, weights(graph), tokens=ids)

    feeds = weights(decode)  # caches too: what they hold before must not matter
    prompt = np.where(np.arange(4) < 3, ids[:, :4], 0)
    found = run(prefill, feeds, tokens=prompt, positions=np.arange(4), last=np.array([[2], [4 + 2]]))
    np.testing.assert_allclose(found[:, 0], expected[:, 2], rtol=1e-12, atol=1e-12)
    for t in range(3, LENGTH):
        found = run(decode, feeds, token=ids[:, t : t + 1], position=np.array([t]))
        np.testing.assert_allclose(found[:, 0], expected[:, t], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", REFUSED)
def test_says_why_not(tmp_path: Path, name: str) -> None:
    params, statements, reason = REFUSED[name]
    context = Context()
    assert not can_cache(graph_of(tmp_path, params, statements), Options(), context)
    (remark,) = context.remarks
    assert (remark.pass_name, remark.kind) == ("cache", "missed")
    assert remark.message.startswith(reason)
    assert remark.span is not None
