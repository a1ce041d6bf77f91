"""Generation on a GPU: products of a few rows, caches of keys and values and attention over them, each against the
definition of its op; programs `prefill` and `decode` call by call; the same text as without caches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptc.bounds import bounded
from gptc.check import check_model
from gptc.compiler import build_model, compile_model
from gptc.ir.body import Body, body
from gptc.ir.graph import Node, Value
from gptc.ir.ops.cache import AttentionCached, CacheAppend
from gptc.ir.ops.foreach import Foreach
from gptc.ir.ops.region import Gemm
from gptc.ir.text import parse_type
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir
from gptc.runtime.cache import Cache
from gptc.runtime.cuda import CudaModel
from gptc.runtime.generate import Cached, Sampling, generate
from gptc.runtime.init import initialise
from tests.codegen.native import Array, apply, empty, fill, wide
from tests.conftest import TINY
from tests.cuda.device import DeviceKernels, needs_device

pytestmark = [pytest.mark.gpu, needs_device]

LLAMA = models_dir() / "llama-nano.yaml"
GREEDY = Sampling(temperature=0)
PLAIN = Body(("acc",), (), ("acc",))
GELU = body("acc b", "y z", "y = acc + b\nz = gelu(y)")
RESIDUAL = body("acc b x s w", "y", "y = (acc + b) * s * w + x")


def product(dtype: str, m: int, n: int, k: int, code: Body = PLAIN, dtypes: tuple[str, ...] = ("f32",)) -> Node:
    """C[m, n] = A[m, k] B[n, k]^T, and what the body makes of it."""
    more = {"b": f"f32[{n}]", "x": f"{dtype}[{m},{n}]", "s": "f32[]", "w": f"f32[{m},1]"}
    op = Gemm(body=code, dtypes=dtypes, trans_b=True)
    return apply(op, f"{dtype}[{m},{k}]", f"{dtype}[{n},{k}]", *(more[name] for name in code.inputs[1:]))


def append(cache: str, x: str, times: int = 1) -> Node:
    """New rows for `times` caches; x may have strides."""
    tokens = parse_type(x).shape[2]
    if times == 1:
        return apply(CacheAppend(), cache, x, f"i32[{tokens}]")
    return apply(Foreach(CacheAppend(), times, 1), *[cache] * times, *[x] * times, f"i32[{tokens}]")


def attend(q: str, cache: str, merged: bool = False) -> Node:
    tokens = parse_type(q).shape[2]
    return apply(AttentionCached(scale=0.125, merged=merged), q, cache, cache, f"i32[{tokens}]")


NODES = {
    **{f"{t} {m} x {n} x {k}": product(t, m, n, k) for t in ("bf16", "f16") for m, n, k in (
        (1, 77, 8), (1, 768, 768), (1, 768, 3072), (1, 9000, 40), (3, 31, 104), (16, 100, 264), (17, 100, 1032),
        (33, 600, 96), (64, 768, 3072), (64, 2304, 768),
    )},
    **{f"f32 {m} x {n} x {k}": product("f32", m, n, k) for m, n, k in ((1, 77, 4), (3, 768, 772), (8, 31, 3072))},
    **{f"{t} gelu": product(t, 5, 136, 64, GELU, (t, t)) for t in ("bf16", "f16", "f32")},
    **{f"{t} residual": product(t, 7, 135, 64, RESIDUAL, (t,)) for t in ("bf16", "f16", "f32")},
    "rows in order": append("f32[2,2,9,16]", "f32[2,2,6,16]"),
    "two caches": append("bf16[2,12,20,64]", "bf16[2,12,1,64]{2304,64,2304,1}", 2),
    "two caches, odd": append("bf16[2,3,20,5]", "f32[2,3,4,5]", 2),
    "f16 rows": append("f16[1,2,70,24]", "f16[1,2,64,24]{9216,24,144,1}"),
    **{f"{t} {q} over {k}": attend(f"{t}[{q}]", f"{c}[{k}]", merged) for t, c, q, k, merged in (
        ("bf16", "bf16", "1,12,1,64", "1,12,1024,64", True), ("f16", "f16", "2,4,3,64", "2,2,1000,64", False),
        ("f32", "f32", "1,4,2,64", "1,2,600,64", True), ("bf16", "bf16", "3,12,8,64", "3,12,70,64", True),
        ("f32", "bf16", "1,2,1,128", "1,2,2100,128", True), ("f32", "f32", "2,2,5,7", "2,1,33,7", True),
        ("bf16", "bf16", "1,3,1,80", "1,3,300,80", False), ("f32", "f32", "1,1,1,256", "1,1,513,256", True),
    )},
}  # fmt: skip


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> DeviceKernels:
    return DeviceKernels(tmp_path_factory.mktemp("kernels"), list(NODES.values()))


def positions(node: Node, operand: Value, rng: np.random.Generator) -> list[Array]:
    """Some that repeat, and the first, the last and those around the ends of chunks."""
    cache = node.operands[1 if isinstance(node.op, AttentionCached) else 0]
    count, length = operand.type.count, int(cache.type.shape[2])
    edges = [p for p in (0, 63, 64, 511, 512, 513, length - 1) if p < length]
    found = [np.asarray([p] * count, np.int32) for p in edges] if count == 1 else []
    return [*found, rng.integers(0, length, count, np.int32), np.arange(length - count, length, dtype=np.int32)]


@pytest.mark.parametrize("name", NODES)
def test_kernels(kernels: DeviceKernels, name: str) -> None:
    """Within the bounds that `gptc diff` allows, and the same bits again."""
    node, rng = NODES[name], np.random.default_rng(len(name))
    given = [fill(v.type, rng) for v in node.operands]
    last = node.operands[-1]
    for choice in positions(node, last, rng) if not isinstance(node.op, Gemm) else [given[-1]]:
        given[-1] = choice
        first, again = run(kernels, node, given), run(kernels, node, given)
        for got, twin, want in zip(first, again, bounded(node, given), strict=True):
            assert got.tobytes() == twin.tobytes()
            wrong = ~(np.abs(wide(got) - want.value) <= want.error)
            assert not wrong.any(), f"{wrong.sum()} of {got.size}, first {np.argwhere(wrong)[0]}, positions {choice}"


def run(kernels: DeviceKernels, node: Node, given: list[Array]) -> list[Array]:
    results = [empty(v.type) for v in node.results]
    values = zip((*node.operands, *node.results), (*given, *results), strict=True)
    kernels.call(node, {v.name: array for v, array in values})
    return results


def test_rows_are_appended_in_place(kernels: DeviceKernels) -> None:
    node, rng = NODES["two caches"], np.random.default_rng(0)
    given = [fill(v.type, rng, 20) for v in node.operands]
    expected = node.op.eval(*given)
    memory = {v.name: array for v, array in zip(node.operands, given, strict=True)}
    memory |= {result.name: cache for result, cache in zip(node.results, given[:2], strict=True)}
    kernels.call(node, memory)
    for cache, want in zip(given[:2], expected, strict=True):
        assert cache.tobytes() == want.tobytes()


def model_of(folder: Path, path: Path, batch: int, seq: int, **options: object) -> CudaModel:
    """A model with its initial weights, as far spread as trained ones."""
    cache = Cache(folder / "cache")
    request = Request(path, Options(target="cuda", mode="infer", **options), (), batch, seq)  # type: ignore[arg-type]
    compiled = compile_model(request, folder, cache)
    model = CudaModel(compiled.artefact, build_model(compiled, cache).library)
    initialise(model)
    for param in model.artefact.manifest.params:
        model.valid(param)[...] = 4 * np.asarray(model.valid(param))
    return model


@pytest.mark.parametrize(
    ("path", "precision", "batch"),
    [(TINY, "f32", 1), (TINY, "f32", 5), (TINY, "bf16", 1), (TINY, "bf16", 64), (TINY, "f16", 3),
     (LLAMA, "f32", 1), (LLAMA, "bf16", 3)],
)  # fmt: skip
def test_every_call_is_right(tmp_path: Path, path: Path, precision: str, batch: int) -> None:
    """Also where more rows than a few are multiplied by other kernels, and where keys are kept turned."""
    agreement = check_model(model_of(tmp_path, path, batch, 13, precision=precision))
    assert agreement.programs == ["prefill", "decode", "refresh"][: 2 if precision == "f32" else 3]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_text_is_the_same(tmp_path: Path, precision: str) -> None:
    """As from the model's own formulas, which keep nothing; past the end of the window too; bit for bit in any mode."""
    path = models_dir() / "gpt2-nano.yaml"
    cached = model_of(tmp_path, path, 1, 128, precision=precision)
    anew = model_of(tmp_path, path, 1, 128, precision="f32", recognise=False)
    assert anew.artefact.has_program("logits")
    prompt = [int(x) for x in np.random.default_rng(1).integers(0, 256, 70)]
    found = list(generate(cached, prompt, 200, GREEDY))
    if precision == "f32":
        assert found == list(generate(anew, prompt, 200, GREEDY))
    assert len(set(found)) > 1
    assert found == list(generate(cached, prompt, 200, GREEDY))
    tokens = prompt + found[:40]
    graph = [Cached(cached).logits(tokens[:end], 0).tobytes() for end in (71, 72, 110)]
    cached.on_call(lambda call: None)  # kernels one by one, each awaited
    assert [Cached(cached).logits(tokens[:end], 0).tobytes() for end in (71, 72, 110)] == graph
