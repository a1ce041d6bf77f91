"""Generation from caches gives what computing everything anew gives, and models without caches still write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptc.check import check_artefact
from gptc.compiler import plan
from gptc.ir.graph import Graph
from gptc.ir.interp import interpret
from gptc.ir.types import Array, DType
from gptc.model import build_graph, load_description
from gptc.options import Options
from gptc.request import Request
from gptc.runtime.cpu import CpuModel
from gptc.runtime.generate import Cached, Recomputed, Sampling, generate
from tests.system.reference import rounding
from tests.system.workshop import NANO, NEEDS_BF16, TINY, Workshop

LLAMA = NANO.parent / "llama-nano.yaml"
LENGTH = 96
"""More than one call of `prefill` takes, and no multiple of what it takes."""
GREEDY = Sampling(temperature=0)


def spread_weights(model: CpuModel) -> None:
    """Weights far from their small initial values, so that attention matters and the best token stands out."""
    for param in model.artefact.manifest.params:
        model.valid(param)[...] *= 4.0


def anew(workshop: Workshop, path: Path, seq: int) -> CpuModel:
    """The same model by its own formulas: attention is not recognised, so nothing is cached."""
    built = workshop.build(path, batch=1, seq=seq, mode="infer", recognise=False)
    assert built.artefact.has_program("logits")
    return built.model()


def reference_logits(model: CpuModel, graph: Graph, ids: Array, share: float = 0.0, seed: int = 0) -> Array:
    """f64[T, V] of the graph that the model file declares, with every weight off by `share` of itself."""
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {"tokens": ids[None]}
    for param in model.artefact.manifest.params:
        weights = model[param.name].astype(np.float64)
        feeds[param.name] = weights * (1 + share * random.choice([-1, 1], weights.shape))
    return interpret(graph, feeds, wide=True)["logits"][0]


@pytest.mark.parametrize(
    ("path", "prompt"),
    [*((TINY, n) for n in (1, 2, 63, 65, 95, 96)), (LLAMA, 65)],
    ids=lambda p: p.stem if isinstance(p, Path) else str(p),
)
def test_logits_at_every_position(workshop: Workshop, path: Path, prompt: int) -> None:
    """Backward error: rounding is as if the weights had been others; so much do the logits move when they are."""
    model = workshop.build(path, batch=1, seq=LENGTH, mode="infer").model()
    spread_weights(model)
    ids = np.random.default_rng(prompt).integers(0, 61, LENGTH)
    graph = build_graph(load_description(path), 1, LENGTH, with_loss=False)
    expected = reference_logits(model, graph, ids)
    share = rounding(graph, DType.f32)
    moved = [np.abs(reference_logits(model, graph, ids, share, seed) - expected).max(-1) for seed in range(4)]
    source = Cached(model)
    for end in range(prompt, LENGTH + 1):
        error = np.abs(source.logits(list(ids[:end]), 0) - expected[end - 1]).max()
        assert error <= np.max(moved, 0)[end - 1], end


@pytest.mark.parametrize(
    ("path", "seq", "count", "sampling"),
    [(TINY, 96, 220, GREEDY), (NANO, 128, 300, GREEDY), (TINY, 3, 40, Sampling())],
    ids=["tiny", "nano", "three tokens"],
)
def test_text_is_the_same(workshop: Workshop, path: Path, seq: int, count: int, sampling: Sampling) -> None:
    """Past the end of the window too, where both begin again from its second half."""
    cached = workshop.build(path, batch=1, seq=seq, mode="infer").model()
    recomputed = anew(workshop, path, seq)
    for model in (cached, recomputed):
        spread_weights(model)
    prompt = list(np.random.default_rng(1).integers(0, 61, 5))
    found, expected = (list(generate(model, prompt, count, sampling)) for model in (cached, recomputed))
    assert found == expected
    assert len(set(found)) > 1


def test_a_prompt_longer_than_the_window(workshop: Workshop) -> None:
    cached, recomputed = workshop.build(TINY, batch=1, mode="infer").model(), anew(workshop, TINY, 16)
    prompt = list(np.random.default_rng(2).integers(0, 61, 40))
    first, second = Cached(cached).logits(prompt, 24).copy(), Recomputed(recomputed).logits(prompt, 24)
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert list(generate(cached, prompt, 20, GREEDY)) == list(generate(recomputed, prompt, 20, GREEDY))


@pytest.mark.parametrize("precision", ["f32", pytest.param("bf16", marks=NEEDS_BF16), "int8"])
def test_threads_do_not_change_logits(workshop: Workshop, precision: str) -> None:
    model = workshop.build(TINY, batch=1, seq=LENGTH, mode="infer", precision=precision).model()
    ids = list(np.random.default_rng(3).integers(0, 61, LENGTH))
    found = []
    for threads in (1, 2, 3, 4):
        model.set_threads(threads)
        source = Cached(model)
        found.append([source.logits(ids[:end], 0).tobytes() for end in (70, 71, 72)])
    assert found.count(found[0]) == len(found)


@pytest.mark.parametrize("batch", [1, 3, 4, 5])
def test_every_call_is_right(workshop: Workshop, batch: int) -> None:
    """Products of few rows have a kernel of their own, one for each number of rows."""
    built = workshop.build(TINY, batch=batch, seq=13, mode="infer")
    agreement = check_artefact(built.artefact, built.library)
    assert agreement.programs == ["prefill", "decode"]


def test_a_model_without_attention_is_told(tmp_path: Path, workshop: Workshop) -> None:
    """Scores without softmax are no attention: it generates from `logits`, and a remark says why."""
    text = TINY.read_text().replace("softmax(causal_mask(matmul_nt(q, k) * D ** -0.5))", "sigmoid(matmul_nt(q, k) / T)")
    path = tmp_path / "plain.yaml"
    path.write_text(text)
    planned = plan(Request(path, Options(mode="infer"), (), 1, 16))
    assert [graph.name for graph in planned.graphs] == ["logits"]
    (remark,) = (remark for _, remark in planned.remarks if remark.pass_name == "cache")
    assert remark.span is not None
    assert "anew" in remark.message
    model = workshop.build(path, batch=1, mode="infer").model()
    assert len(list(generate(model, [1, 2], 20, GREEDY))) == 20
