"""The shipped GPT-2 models: sizes, names, initial values, and the mathematics against plain NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gptc.errors import Span
from gptc.ir.analysis import buffers
from gptc.ir.graph import Graph
from gptc.ir.interp import interpret
from gptc.ir.text import parse_graph, print_graph
from gptc.model import Description, build_graph, load_description

MODELS = Path(__file__).parents[2] / "models"
Weights = dict[str, NDArray[np.float64]]


@pytest.fixture(scope="module")
def gpt2() -> Description:
    return load_description(MODELS / "gpt2-124m.yaml")


@pytest.fixture(scope="module")
def graph(gpt2: Description) -> Graph:
    return build_graph(gpt2, batch=4, seq=64)


@pytest.mark.parametrize(
    ("name", "stored", "real"),
    [
        ("gpt2-124m", 124_475_904, 124_439_808),
        ("gpt2-355m", 354_871_296, 354_823_168),
        ("gpt2-774m", 774_090_240, 774_030_080),
        ("gpt2-1558m", 1_557_686_400, 1_557_611_200),
    ],
)
def test_parameter_counts(name: str, stored: int, real: int) -> None:
    """What llm.c prints, and the same without the padding of the vocabulary."""
    model = load_description(MODELS / f"{name}.yaml")
    assert model.name == name
    assert model.parameter_count == stored
    assert sum(int(np.prod(p.valid)) for p in model.params) == real


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_model_builds(path: Path) -> None:
    model = load_description(path)
    assert model.name == path.stem
    made = build_graph(model, 2, 16)
    assert parse_graph(print_graph(made)) == made
    assert [o.name for o in made.outputs] == ["loss"]


@pytest.mark.llmc(check="K2")
def test_order_of_random_draws(gpt2: Description) -> None:
    """llm.c draws wte, wpe, then qkv, proj, fc, fc_proj of each layer."""
    drawn = [p.name for p in gpt2.params if p.init.startswith("normal")]
    layer = ["qkv.w", "proj.w", "fc.w", "fc_proj.w"]
    assert drawn == ["wte", "wpe", *(f"h.{i}.{name}" for i in range(12) for name in layer)]


@pytest.mark.llmc(check="K2")
def test_initial_values(gpt2: Description) -> None:
    params = {p.name: p for p in gpt2.params}
    assert params["wte"].init == params["wpe"].init == params["h.3.fc.w"].init == "normal(0.02)"
    assert params["h.3.proj.w"].init == params["h.11.fc_proj.w"].init == f"normal({0.02 / 24**0.5!r})"
    assert {p.init for p in gpt2.params if p.name.endswith(".b")} == {"zeros"}
    assert {p.init for p in gpt2.params if ".ln_" in p.name and p.name.endswith(".w")} == {"ones"}


def test_padding_and_decay(gpt2: Description) -> None:
    wte = gpt2.params[0]
    assert (wte.shape, wte.valid) == ((50304, 768), (50257, 768))
    assert str(wte.shape) == "(Vp=50304, C=768)"
    assert {p.name.split(".")[-1] for p in gpt2.params if p.decay} == {"wte", "wpe", "w"}
    assert all(p.decay == (len(p.shape) == 2) for p in gpt2.params)


def test_buffers_say_what_the_model_says(gpt2: Description, graph: Graph) -> None:
    found = [(b.op.key, b.op.shape, b.op.init, b.op.valid, b.op.decay) for b in buffers(graph).values()]  # type: ignore[attr-defined]
    assert found == [(p.name, p.shape, p.init, p.valid, p.decay) for p in gpt2.params]
    assert all(node.name == param.name for node, param in zip(buffers(graph).values(), gpt2.params, strict=True))


def test_tied_embedding_is_one_parameter(graph: Graph) -> None:
    assert [n.op.name for n in graph.users["wte"]] == ["embedding", "matmul"]
    assert graph.producer["logits"].operands[1].name == "wte"


def test_loss_leaves_the_padding_out(graph: Graph) -> None:
    (node,) = [n for n in graph.nodes if n.op.name == "cross_entropy"]
    assert node.op.attributes() == {"classes": 50257}
    assert str(node.operands[0].type) == "f32[B=4,T=64,Vp=50304]"


def test_names_places_and_origins(graph: Graph) -> None:
    """Values are called what the file calls them, and know where they stand in it."""
    lines = (MODELS / "gpt2-124m.yaml").read_text().splitlines()
    for name, text, origin in (
        ("h.3.q", "heads(linear(a, qkv.w, qkv.b), 3, H)", "h.3"),
        ("h.3.v", "heads(linear(a, qkv.w, qkv.b), 3, H)", "h.3"),
        ("h.3.q.matmul", "linear(a, qkv.w, qkv.b)", "h.3"),
        ("h.0.p", "softmax(causal_mask(matmul_nt(q, k) * D ** -0.5))", "h.0"),
        ("h.0.p.mul", "matmul_nt(q, k) * D ** -0.5", "h.0"),
        ("h.11.x", "y + linear(m, fc_proj.w, fc_proj.b)", "h.11"),
        ("x.embedding_1", "embedding(wpe, positions)", "x"),
        ("logits", "linear(layer_norm(x, ln_f.w, ln_f.b), wte)", "logits"),
        ("loss", "cross_entropy(logits, targets)", "loss"),
        ("h.2.qkv.w", "w", "h.2.qkv"),
    ):
        node = graph.producer[name]
        assert isinstance(node.span, Span)
        start = node.span.col - 1
        assert lines[node.span.line - 1][start : start + node.span.width] == text, name
        assert node.origin == origin
        assert node.span.file.endswith("gpt2-124m.yaml")


def test_without_loss(gpt2: Description) -> None:
    """The graph of an inference program has no targets, and all the parameters."""
    made = build_graph(gpt2, 1, 8, with_loss=False)
    assert [o.name for o in made.outputs] == ["logits"]
    assert [n.name for n in made.nodes if n.op.name == "input"] == ["tokens"]
    assert len(buffers(made)) == len(gpt2.params)
    assert not [n for n in made.nodes if n.op.name == "cross_entropy"]


def reference_loss(weights: Weights, tokens: NDArray[np.int32], targets: NDArray[np.int32], heads: int) -> float:
    """GPT-2 in float64, one head and one sequence at a time, written from the paper and not from the compiler."""

    def norm(x: NDArray[np.float64], w: str, b: str) -> NDArray[np.float64]:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weights[w] + weights[b]

    def dense(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x @ weights[f"{name}.w"].T + weights[f"{name}.b"]

    losses = []
    layers = sum(name.endswith("ln_1.w") for name in weights)
    for ids, wanted in zip(tokens, targets, strict=True):
        x = weights["wte"][ids] + weights["wpe"][: len(ids)]
        size = x.shape[1] // heads
        for i in range(layers):
            q, k, v = np.split(dense(norm(x, f"h.{i}.ln_1.w", f"h.{i}.ln_1.b"), f"h.{i}.qkv"), 3, axis=1)
            mixed = np.zeros_like(x)
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                for t in range(len(ids)):
                    scores = k[: t + 1, part] @ q[t, part] / np.sqrt(size)
                    p = np.exp(scores - scores.max())
                    mixed[t, part] = (p / p.sum()) @ v[: t + 1, part]
            x = x + dense(mixed, f"h.{i}.proj")
            m = dense(norm(x, f"h.{i}.ln_2.w", f"h.{i}.ln_2.b"), f"h.{i}.fc")
            m = 0.5 * m * (1 + np.tanh(np.sqrt(2 / np.pi) * (m + 0.044715 * m**3)))
            x = x + dense(m, f"h.{i}.fc_proj")
        logits = norm(x, "ln_f.w", "ln_f.b") @ weights["wte"].T
        for row, target in zip(logits, wanted, strict=True):
            losses.append(np.log(np.exp(row).sum()) - row[target])
    return float(np.mean(losses))


def test_forward_equals_numpy() -> None:
    """The whole graph, in float64, against the model written out by hand."""
    model = load_description(MODELS / "gpt2-nano.yaml", ["dims.L=2", "dims.C=24", "dims.H=3", "dims.T=12", "dims.V=19"])
    rng = np.random.default_rng(7)
    weights = {p.name: rng.normal(0, 0.3, p.shape) for p in model.params}
    tokens, targets = (rng.integers(0, 19, (2, 9), dtype=np.int32) for _ in range(2))
    got = interpret(build_graph(model, 2, 9), {**weights, "tokens": tokens, "targets": targets}, wide=True)
    want = reference_loss(weights, tokens, targets, heads=3)
    assert float(got["loss"]) == pytest.approx(want, rel=1e-13)
