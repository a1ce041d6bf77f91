"""What the model language means: dims, repeats, names, functions, overrides, and what is bound at build time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gptc.errors import InputError
from gptc.ir.graph import Graph, Node
from gptc.ir.interp import interpret
from gptc.model import Description, build_graph, json_schema, load_description
from gptc.model.functions import FUNCTIONS
from gptc.model.schema import Train
from gptc.model.tree import resolve

TINY = """\
model: tiny
dims: {V: 16, T: 8, C: 4}
params:
  wte: {shape: [V, C], init: normal(0.02)}
graph:
  x: embedding(wte, tokens)
  logits: linear(x, wte)
  loss: cross_entropy(logits, targets)
"""
Load = Callable[..., Description]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load TINY after replacing parts of it: `load(("old", "new"), ..., overrides=[...])`."""

    def load(*changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> Description:
        text = TINY
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return load_description(path, overrides)

    return load


def computed(load: Load, expression: str, shape: str = "[V, C]", name: str = "y", before: str = "") -> np.ndarray:
    """What an expression over w gives for two sequences of three zeros, where w of a shape holds 0, 1, 2, ...

    `name` picks a value inside the expression instead; `before` is a statement before it.
    """
    model = load(
        ("params:\n", f"params:\n  w: {{shape: {shape}, init: zeros}}\n"),
        ("  logits", f"{before}  y: {expression}\n  z: cross_entropy(concat(y, y, y, y), targets)\n  logits"),
        ("(logits, targets)", "(logits, targets) + z"),
    )
    graph = build_graph(model, 2, 3)
    (w,) = [p for p in model.params if p.name == "w"]
    feeds = {"w": np.arange(w.count, dtype=np.float64).reshape(w.shape), "wte": np.ones((16, 4))}
    seen: dict[str, np.ndarray] = {}

    def observe(node: Node, results: tuple[np.ndarray, ...]) -> None:
        seen[node.name] = results[0]

    ids = np.zeros((2, 3), np.int32)
    interpret(graph, {**feeds, "tokens": ids, "targets": ids}, wide=True, observe=observe)
    return seen[name]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4 * C", 16),
        ("C ** 2 / 2 + 1", 9),
        ("-(1 - C)", 3),
        ("(E + C) / 2", 6),
        ("8 * C / 3 * 3 / 32", None),
        ("0x10", 16),
        ("2 ** 31 - 1", 2**31 - 1),
    ],
)
def test_dim_arithmetic(load: Load, text: str, size: int | None) -> None:
    change = ("C: 4", f"D: {text}, E: 2 * C, C: 4")
    if size is None:
        with pytest.raises(InputError, match="32 / 3 is not a whole number"):
            load(change)
    else:
        assert load(change).dims == {"V": 16, "T": 8, "D": size, "E": 8, "C": 4}


@pytest.mark.parametrize(
    ("text", "init"),
    [
        ("normal(0.02 / sqrt(2 * C))", f"normal({0.02 / 8**0.5!r})"),
        ("normal(C ** -0.5)", "normal(0.5)"),
        ("'uniform(-1 / C, 1 / C)'", "uniform(-0.25, 0.25)"),
        ("constant(3)", "constant(3.0)"),
        ("constant(-1e-3)", "constant(-0.001)"),
        ("zeros", "zeros"),
    ],
)
def test_inits_are_numbers(load: Load, text: str, init: str) -> None:
    assert load(("normal(0.02)", text)).params[0].init == init


def test_decay_can_be_chosen(load: Load) -> None:
    assert load().params[0].decay
    assert not load(("init: normal", "decay: false, init: normal")).params[0].decay


def test_repeats_within_repeats(load: Load) -> None:
    """Groups unroll in the order of the file, and each round of a block sees its own parameters."""
    model = load(
        ("C: 4", "C: 4, L: 2"),
        ("graph:", "  h:\n    repeat: L\n    a: {shape: [C], init: ones}\n"
                   "    g: {repeat: L + 1, b: {shape: [C], init: ones}}\ngraph:"),
        ("  logits:", "  h:\n    repeat: L\n    x: x * a\n    g:\n      repeat: 3\n      x: x + b * scale\n  logits:"),
        ("  x: emb", "  scale: C ** -0.5\n  x: emb"),
    )  # fmt: skip
    names = [p.name for p in model.params[1:]]
    assert names == [f"h.{i}.{n}" for i in range(2) for n in ("a", "g.0.b", "g.1.b", "g.2.b")]
    graph = build_graph(model, 1, 2)
    assert [graph.producer[f"h.{i}.g.{j}.x.mul"].operands[0].name for i in (0, 1) for j in range(3)] == [
        f"h.{i}.g.{j}.b" for i in (0, 1) for j in range(3)
    ]
    assert graph.producer["h.1.x"].operands[0].name == "h.0.g.2.x"
    assert [n.op.attributes()["value"] for n in graph.nodes if n.op.name == "constant"] == [0.5]


def test_blocks_without_repeat_are_groups(load: Load) -> None:
    graph = build_graph(load(("  logits:", "  act:\n    y: gelu(x)\n    x: x + y\n  logits:")), 1, 2)
    assert graph.producer["act.x"].origin == "act"
    assert graph.producer["logits"].operands[0].name == "act.x"


def test_unneeded_values_leave_the_graph(load: Load) -> None:
    change = ("  loss: cross", "  aux: cross_entropy(logits * 0.5, targets)\n  loss: aux + cross")
    model = load(change)
    assert [n.name for n in build_graph(model, 1, 2, with_loss=False).nodes][-1] == "logits"


def test_heads_split_and_merge(load: Load) -> None:
    """[B,T,3*H*D] -> three [B,H,T,D], and back."""
    y = computed(load, "embedding(w, tokens)", "[V, 24]")
    same = computed(load, "merge_heads(heads(embedding(w, tokens), 1, 4))", "[V, 24]")
    assert np.array_equal(y, same)
    x = "embedding(w, positions) + 0 * embedding(w, tokens)"
    got = computed(load, f"merge_heads(heads({x}, 1, 4))", "[V, 24]", name="y.transpose")
    assert got.shape == (2, 4, 3, 6)
    assert np.array_equal(got[0, 1, 2], 2 * 24 + 6 + np.arange(6))


def test_attention_is_its_primitives(load: Load) -> None:
    x = "embedding(w, positions) * 0.01 + 0 * embedding(w, tokens)"
    whole = computed(load, f"merge_heads(attention(heads({x}, 1, 2), heads({x}, 1, 2), heads({x}, 1, 2)))", "[V, 6]")
    parts = "softmax(causal_mask(matmul_nt(heads({x}, 1, 2), heads({x}, 1, 2)) * 3 ** -0.5))".replace("{x}", x)
    assert np.allclose(whole, computed(load, f"merge_heads(matmul({parts}, heads({x}, 1, 2)))", "[V, 6]"), rtol=1e-13)


def test_reshape_transpose_split_concat(load: Load) -> None:
    base = computed(load, "embedding(w, tokens) + embedding(w, positions)", "[V, C]")
    x = "embedding(w, tokens) + embedding(w, positions)"
    assert np.array_equal(computed(load, f"transpose(transpose({x}, 0, 2, 1), 0, 2, 1)"), base)
    assert np.array_equal(computed(load, f"reshape(reshape({x}, B, T * C), B, T, C)"), base)
    swapped = computed(load, "concat(q, p, axis=-1)", before=f"  p, q: split({x}, 2)\n")
    assert np.array_equal(swapped, np.roll(base, 2, -1))


def test_numbers_mix_with_tensors(load: Load) -> None:
    x = computed(load, "embedding(w, tokens) + 1")
    assert np.array_equal(computed(load, "2 ** 3 - -(embedding(w, tokens) + 1) / 4 * (C - 2)"), 8 + x / 4 * 2)


def test_every_function_is_used_here_or_in_a_model() -> None:
    models = "".join(p.read_text() for p in (Path(__file__).parents[2] / "models").glob("*.yaml"))
    here = Path(__file__).read_text()
    assert [name for name in FUNCTIONS if f"{name}(" not in models + here] == []


@pytest.mark.parametrize("name", ["cos", "exp", "neg", "relu", "sigmoid", "silu", "sin", "tanh"])
def test_elementwise(load: Load, name: str) -> None:
    """relu(x), silu(x), sigmoid(x), tanh(x), exp(x), neg(x), sin(x), cos(x)"""
    meaning = {
        "cos": np.cos,
        "exp": np.exp,
        "relu": lambda x: np.maximum(x, 0),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "neg": np.negative,
        "silu": lambda x: x / (1 + np.exp(-x)),
        "sin": np.sin,
        "tanh": np.tanh,
    }[name]
    x = computed(load, "embedding(w, positions) * 0.1 - 0.5 + 0 * embedding(w, tokens)")
    assert np.allclose(
        computed(load, f"{name}(embedding(w, positions) * 0.1 - 0.5 + 0 * embedding(w, tokens))"), meaning(x)
    )


def test_longer_sequences_than_the_model_has(load: Load) -> None:
    model = load()
    assert str(build_graph(model, 2, 8).producer["x"].results[0].type) == "f32[B=2,T=8,C=4]"
    with pytest.raises(InputError, match="the sequence length 9 is longer than the model's T = 8") as caught:
        build_graph(model, 2, 9)
    assert "    2 | dims: {V: 16, T: 8, C: 4}\n      |                  ^" in str(caught.value)


@pytest.mark.parametrize(
    ("batch", "seq", "message"),
    [
        (0, 4, "the batch must be at least 1, got 0"),
        (4, -1, "the sequence length must be at least 1, got -1"),
        (2**30, 8, "is more than 2\\^31 - 1 tokens"),
        (2**28 - 1, 8, None),
    ],
)
def test_absurd_sizes(load: Load, batch: int, seq: int, message: str | None) -> None:
    model = load()
    if message:
        with pytest.raises(InputError, match=message):
            build_graph(model, batch, seq)
    else:
        build_graph(model, batch, seq)
        with pytest.raises(InputError, match="elements, the most is 1,099,511,627,776"):
            build_graph(load(("V: 16", "V: 65536")), batch, seq)


def test_dims_that_follow_the_sequence(load: Load) -> None:
    """A dim computed from T follows the sequence that is compiled."""
    change = (("C: 4", "C: 4, N: T / 2"), ("embedding(wte, tokens)", "reshape(embedding(wte, tokens), B, 2 * N, C)"))
    model = load(*change)
    assert str(build_graph(model, 1, 6).producer["x"].results[0].type) == "f32[B=1,6,C=4]"
    with pytest.raises(InputError, match="5 / 2 is not a whole number"):
        build_graph(model, 1, 5)


def test_overrides_and_origins(load: Load) -> None:
    model = load(
        ("(logits, targets)\n", "(logits, targets)\ntrain:\n  lr: 1e-3\n  warmup: 5\n"),
        overrides=("train.lr=3e-4", "dims.V=32", "train.schedule=linear"),
    )
    assert model.train == Train(lr=3e-4, warmup=5, schedule="linear")
    assert model.dims["V"] == 32
    wanted = {
        "train.lr": "--set",
        "train.schedule": "--set",
        "train.warmup": "tiny.yaml:11",
        "train.beta1": "default",
        "dims.V": "--set",
        "dims.T": "tiny.yaml:2",
    }
    assert {key: model.origins[key] for key in wanted} == wanted
    assert load(overrides=("train.lr=1",)).train.lr == 1.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.lr=fast",
            "--set:1:10: error: expected a number, found 'fast'\n    1 | train.lr=fast\n      |          ^^^^",
        ),
        ("train.lrr=1", "--set:1:1: error: unknown key 'lrr'"),
        ("train.lr=", "--set:1:1: error: 'lr' has no value"),
        ("train.lr", "--set:1:1: error: cannot read 'train.lr'"),
        ("train.lr=1\ntrain.eps=1", "cannot read 'train.lr=1\\ntrain.eps=1'"),
        ("dims.W=3", "--set:1:1: error: the model has no dim 'W'"),
        ("dims.V=C/3", "--set:1:8: error: 4 / 3 is not a whole number"),
        ("params.wte.init=zeros", "help: write train.KEY=VALUE or dims.NAME=VALUE"),
        ("train.steps=.inf", "--set:1:13: error: expected a whole number"),
    ],
)
def test_wrong_overrides(load: Load, override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(overrides=(override,))
    assert message in str(caught.value)


def test_yaml_is_1_2() -> None:
    """Section 10.3.2 of the specification, not the surprises of 1.1."""
    assert [resolve(t) for t in ("3e-4", "012", "0o17", "0x1F", "1.", ".5", "-2", "+1.5E+3")] == [
        3e-4, 12, 15, 31, 1.0, 0.5, -2, 1500.0,
    ]  # fmt: skip
    assert [resolve(t) for t in ("no", "on", "1:30", "1_000", "2001-01-01", "0b1")] == [
        "no", "on", "1:30", "1_000", "2001-01-01", "0b1",
    ]  # fmt: skip
    assert [resolve(t) for t in ("~", "", "null", "true", "False", "-.inf")] == [None, None, None, True, False, -np.inf]


def test_anchors_share_what_they_name(load: Load) -> None:
    model = load(
        ("params:\n", "params:\n  a: &norm {w: {shape: [C], init: ones}}\n  b: *norm\n"),
        ("linear(x,", "linear(rms_norm(rms_norm(x, a.w), b.w, eps=1e-6),"),
    )
    assert [p.name for p in model.params] == ["a.w", "b.w", "wte"]
    norms = [n.op.attributes() for n in build_graph(model, 1, 2).nodes if n.op.name == "rms_norm"]
    assert norms == [{"eps": 1e-5}, {"eps": 1e-6}]


def test_names_are_unique(load: Load) -> None:
    """Two names for one value, and inner names that meet outer ones."""
    graph: Graph = build_graph(
        load(("  logits: linear(x, wte)", "  y: x\n  z: gelu(y) + x\n  logits: linear(z + gelu(y) + gelu(x), wte)")),
        1,
        2,
    )
    names = [v.name for v in graph.values()]
    assert len(names) == len(set(names))
    assert "logits.gelu_1" in names


def test_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_bytes(TINY.replace("\n", "\r\n").encode())
    assert load_description(path).parameter_count == 64


def test_json_schema_lists_the_keys() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == {"model", "dims", "tokenizer", "params", "graph", "train"}
    assert set(schema["required"]) == {"model", "dims", "params", "graph"}
    assert schema["additionalProperties"] is False
    assert set(schema["$defs"]["Param"]["properties"]) == {"shape", "init", "pad", "decay"}
    assert schema["$defs"]["Train"]["properties"]["lr"]["default"] == Train().lr
