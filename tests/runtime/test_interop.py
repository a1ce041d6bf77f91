"""GPT-2 from and for llm.c, Hugging Face and llama.cpp."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gptc.compiler import Compiled, build_model, compile_model
from gptc.errors import InputError
from gptc.options import Options
from gptc.request import Request
from gptc.runtime.cache import Cache
from gptc.runtime.cpu import CpuModel
from gptc.runtime.generate import Cached, Sampling, generate
from gptc.runtime.history import verified
from gptc.runtime.init import SEED, draw
from gptc.runtime.interop import gguf, huggingface, llmc, training
from gptc.runtime.interop.gpt2 import Gpt2, Sizes, gpt2, read_weights, write_weights
from gptc.runtime.interop.merges import merges, spell
from gptc.runtime.rng import Mt19937
from gptc.runtime.weights import load_weights
from tests.conftest import FULL, TINY
from tests.runtime.test_rng import D12_WTE

SIZES = Sizes(vocab=50, positions=16, layers=2, heads=2, channels=32)
MODELS = Path(__file__).parents[2] / "models"
D12_FIRST = {
    "wpe": (-0.00916234, -0.01861477), "h.0.qkv.w": (-0.00455668, 0.00724000), "h.0.proj.w": (0.00113274, 0.00542640),
    "h.11.fc_proj.w": (0.00174369, -0.00100940),
}  # fmt: skip
"""What PyTorch 2.13 draws with `normal_` after `manual_seed(42)`, the tensors in llm.c's order."""
ROWS = 64
"""Of the vocabulary, as tests/artefact/tiny.yaml pads it."""
F1_ORDER = {
    "wte": (ROWS, 32), "wpe": (16, 32), "ln_1.w": (2, 32), "ln_1.b": (2, 32), "qkv.w": (2, 96, 32), "qkv.b": (2, 96),
    "proj.w": (2, 32, 32), "proj.b": (2, 32), "ln_2.w": (2, 32), "ln_2.b": (2, 32), "fc.w": (2, 128, 32),
    "fc.b": (2, 128), "fc_proj.w": (2, 32, 128), "fc_proj.b": (2, 32), "ln_f.w": (32,), "ln_f.b": (32,),
}  # fmt: skip
"""llm.c's sixteen tensors, each over all layers."""


def random_tensors(seed: int = 0) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    rng = np.random.default_rng(seed)
    found = {name: rng.standard_normal(shape, np.float32) / 8 for name, shape in F1_ORDER.items()}
    found["wte"][50:] = 0
    return found


def model_file(path: Path, tensors: dict[str, Any], version: int = 3) -> bytes:
    """Written after the description of the format, without the code that is tested."""
    header = np.zeros(256, "<i4")
    header[:8] = 20240326, version, 16, 50, 2, 2, 32, ROWS
    dtype = {3: "<f4", 5: ml_dtypes.bfloat16}[version]
    text = header.tobytes() + b"".join(tensors[name].astype(dtype).tobytes() for name in F1_ORDER)
    path.write_bytes(text)
    return text


def state_file(path: Path, shuffles: bool, masters: bool) -> bytes:
    rng = np.random.default_rng(1)
    header = np.zeros(256, "<i4")
    header[:6] = 20240527, 1, 1, 0, masters, shuffles
    header[10] = 7
    header[20:34] = np.array([1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 5, 0, 6, 0])
    flat = [np.concatenate([t.ravel() for t in random_tensors(seed).values()]) for seed in range(3 if masters else 2)]
    tail = b""
    if shuffles:
        tail = b"".join((np.uint64(3).tobytes(), np.arange(3, dtype="<i4").tobytes(), np.uint64(9).tobytes(),
                         np.arange(9, dtype="<i4").tobytes(), rng.bytes(2520)))  # fmt: skip
    text = header.tobytes() + b"".join(map(np.ndarray.tobytes, flat)) + tail
    path.write_bytes(text)
    return text


def a_model(seed: int = 0, tokenizer: str | None = None, sizes: Sizes = SIZES) -> Gpt2:
    rng = np.random.default_rng(seed)
    tensors = {name: rng.standard_normal(shape, np.float32) / 8 for name, shape in sizes.shapes().items()}
    return gpt2(sizes, tensors, tokenizer, Path("made"))


def same(a: Gpt2, b: Gpt2) -> bool:
    return a.sizes == b.sizes and all(np.array_equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


# llm.c


@pytest.mark.llmc(check="K1")
@pytest.mark.parametrize("version", [3, 5])
def test_a_model_of_llmc_is_written_back_byte_for_byte(version: int, tmp_path: Path) -> None:
    tensors = random_tensors()
    text = model_file(tmp_path / "m.bin", tensors, version)
    model = llmc.read_model(tmp_path / "m.bin")
    assert model.sizes == SIZES
    if version == 3:
        np.testing.assert_array_equal(model.tensors["h.1.qkv.w"], tensors["qkv.w"][1])
        np.testing.assert_array_equal(model.tensors["wte"], tensors["wte"][:50])
    llmc.write_model(tmp_path / "again.bin", model, {3: "f32", 5: "bf16"}[version], ROWS)
    assert (tmp_path / "again.bin").read_bytes() == text
    write_weights(tmp_path / "w", model)  # and through gptc's own file
    llmc.write_model(tmp_path / "third.bin", read_weights(tmp_path / "w"), {3: "f32", 5: "bf16"}[version], ROWS)
    assert (tmp_path / "third.bin").read_bytes() == text


@pytest.mark.llmc(check="K2")
def test_sizes_of_published_models() -> None:
    d12 = Sizes(50257, 1024, 12, 12, 768)
    count = llmc.parameter_count(d12, llmc.padded(50257))
    assert count == 124_475_904
    assert llmc.HEADER_BYTES + 4 * count == 497_904_640
    assert count == sum(int(np.prod(shape)) for shape in d12.shapes().values()) + 47 * 768


@pytest.mark.llmc(check="K2", golden="A14.7")
@pytest.mark.skipif(not FULL, reason="GPTC_TEST_FULL=1 draws the 124 million weights")
def test_d12_is_that_of_llmc(cache: Cache, tmp_path: Path) -> None:
    """The file that llm.c's `-e d12` begins with; values of PyTorch for the first of tensors all over it."""
    compiled = compile_model(Request(MODELS / "gpt2-124m.yaml"), tmp_path, cache)
    rng, tensors = Mt19937(SEED), {}
    for param in compiled.artefact.manifest.params:
        tensors[param.name] = draw(param.init, math.prod(param.valid), rng).reshape(param.valid)
    model = gpt2(Sizes(50257, 1024, 12, 12, 768), tensors, "gpt2", tmp_path)
    llmc.write_model(tmp_path / "d12.bin", model)
    assert (tmp_path / "d12.bin").stat().st_size == 497_904_640
    first = np.fromfile(tmp_path / "d12.bin", "<f4", 16, offset=llmc.HEADER_BYTES)
    np.testing.assert_allclose(first, D12_WTE, rtol=0, atol=1e-7)
    back = llmc.read_model(tmp_path / "d12.bin").tensors
    for name, golden in D12_FIRST.items():
        np.testing.assert_allclose(back[name].ravel()[:2], golden, rtol=0, atol=1e-7)


@pytest.mark.llmc(check="K1")
@pytest.mark.parametrize(("shuffles", "masters"), [(False, False), (True, True), (True, False)])
def test_a_state_of_llmc_is_written_back_byte_for_byte(shuffles: bool, masters: bool, tmp_path: Path) -> None:
    text = state_file(tmp_path / "s.bin", shuffles, masters)
    state = llmc.read_state(tmp_path / "s.bin", llmc.parameter_count(SIZES, ROWS))
    assert (state.step, state.shard, state.sample, state.rng) == (7, 5, 6, 1 + (2 << 32))
    llmc.write_state(tmp_path / "again.bin", state)
    assert (tmp_path / "again.bin").read_bytes() == text


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_llmc_to_a_checkpoint_and_back(dtype: str, tiny: Compiled, library: Path, tmp_path: Path) -> None:
    """The checkpoint goes into a compiled model; what is exported again are the same two files."""
    masters = dtype == "bf16"
    text = model_file(tmp_path / "m.bin", random_tensors(2 if masters else 5), {"f32": 3, "bf16": 5}[dtype])
    state = state_file(tmp_path / "s.bin", False, masters)
    pair = training.read_pair(tmp_path / "m.bin", tmp_path / "s.bin")
    training.write_checkpoint(tmp_path / "step", *pair)
    model = CpuModel(tiny.artefact, library)
    checkpoint = verified(tmp_path / "step")
    checkpoint.load(model)
    np.testing.assert_array_equal(model["h.1.fc.w"], random_tensors(2 if masters else 5)["fc.w"][1])
    np.testing.assert_array_equal(model["wte.m"], random_tensors(0)["wte"])
    np.testing.assert_array_equal(model["h.0.proj.b.v"], random_tensors(1)["proj.b"][0])
    written = training.write_pair(checkpoint, tmp_path / "out", dtype)
    assert [path.name for path in written] == ["model_00000007.bin", "state_00000007_00000.bin"]
    assert written[0].read_bytes() == text
    found, expected = (np.frombuffer(data, "<i4").copy() for data in (written[1].read_bytes(), state))
    found[20:34] = expected[20:34] = 0  # generator and place in the data are not gptc's to know
    np.testing.assert_array_equal(found, expected)


def test_padding_that_is_not_zero(tmp_path: Path) -> None:
    tensors = random_tensors()
    tensors["wte"][60, 3] = 1
    model_file(tmp_path / "m.bin", tensors)
    with pytest.raises(InputError, match=r"rows 50\.\.63 of wte"):
        llmc.read_model(tmp_path / "m.bin")


# Hugging Face


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_hugging_face_and_back(dtype: str, tmp_path: Path) -> None:
    model = a_model()
    huggingface.write_model(tmp_path / "hf", model, dtype)
    stored = load_file(tmp_path / "hf" / "model.safetensors")
    assert stored["transformer.h.0.attn.c_attn.weight"].shape == (32, 96)  # Conv1D: (in, out)
    assert "lm_head.weight" not in stored
    found = huggingface.read_model(tmp_path / "hf")
    if dtype == "f32":
        assert same(found, model)
    else:
        for name, value in found.tensors.items():
            np.testing.assert_array_equal(value, model.tensors[name].astype(ml_dtypes.bfloat16).astype(np.float32))


def test_variants_of_the_files(tmp_path: Path) -> None:
    """Without the prefix, with masks and a tied head, in two files; and what gptc's GPT-2 does not compute."""
    model, folder = a_model(), tmp_path / "hf"
    huggingface.write_model(folder, model)
    stored = {n.removeprefix("transformer."): v for n, v in load_file(folder / "model.safetensors").items()}
    stored |= {"h.0.attn.bias": np.ones((1, 1, 16, 16), np.uint8), "lm_head.weight": stored["wte.weight"]}
    (folder / "model.safetensors").unlink()
    halves = [{n: v for i, (n, v) in enumerate(sorted(stored.items())) if i % 2 == half} for half in range(2)]
    places = {}
    for i, half in enumerate(halves):
        save_file(half, folder / f"part-{i}.safetensors")
        places |= dict.fromkeys(half, f"part-{i}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert same(huggingface.read_model(folder), model)
    stored["lm_head.weight"] = stored["lm_head.weight"] + 1
    (folder / "model.safetensors.index.json").unlink()
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(InputError, match="its head is not its embedding"):
        huggingface.read_model(folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in {
        "activation_function": "relu", "layer_norm_epsilon": 1e-6, "n_inner": 7, "model_type": "llama",
        "scale_attn_by_inverse_layer_idx": True, "n_layer": 1 << 30, "n_head": 5, "vocab_size": "50",
    }.items():  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(InputError):
            huggingface.read_model(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="pickles are not read"):
        huggingface.read_model(folder)


@pytest.fixture(scope="module")
def speaker(inferring: Compiled, cache: Cache) -> CpuModel:
    return CpuModel(inferring.artefact, build_model(inferring, cache).library)


def logits(model: CpuModel, tokens: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    source = Cached(model)
    return np.stack([source.logits(tokens[: n + 1], 0)[:50].copy() for n in range(len(tokens))])


def test_transformers_computes_the_same(speaker: CpuModel, tmp_path: Path) -> None:
    """A random GPT2LMHeadModel gives the same logits here, and ours the same there."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases are zero otherwise
    theirs.save_pretrained(tmp_path / "theirs")
    tokens = list(range(3, 15))

    def expected(model: Any) -> Any:
        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0].numpy()

    write_weights(tmp_path / "w", huggingface.read_model(tmp_path / "theirs"))
    load_weights(speaker, tmp_path / "w")
    np.testing.assert_allclose(logits(speaker, tokens), expected(theirs), atol=1e-5, rtol=0)
    write_weights(tmp_path / "w", a_model(1))
    load_weights(speaker, tmp_path / "w")
    huggingface.write_model(tmp_path / "ours", a_model(1))
    ours = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_allclose(logits(speaker, tokens), expected(ours), atol=1e-5, rtol=0)


# llama.cpp


def test_merges_give_the_ids_of_the_ranks() -> None:
    ranks = {bytes([i]): i for i in range(256)} | {b"ab": 256, b"abc": 257, b"bc": 258, b"abcd": 259, b"zz": 260}
    assert merges(ranks) == [(b"a", b"b"), (b"ab", b"c"), (b"b", b"c"), (b"abc", b"d"), (b"z", b"z")]
    assert spell(b" a\n") == "\u0120a\u010a"
    assert len({spell(bytes([i])) for i in range(256)}) == 256


def test_quantised_values_are_near() -> None:
    values = np.random.default_rng(0).standard_normal((4, 64), np.float32)
    values[0, :32] = 0
    blocks = gguf.quantise(values)
    back = (blocks["scale"].astype(np.float32)[:, None] * blocks["values"]).reshape(values.shape)
    largest = np.abs(values).max()
    assert np.abs(back - values).max() <= largest / 127 * 0.51 + largest * 2**-11
    assert not back[0, :32].any()
    assert np.abs(blocks["values"]).max() == 127


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8_0"])
def test_gguf_is_read_by_its_own_package(dtype: str, tmp_path: Path) -> None:
    package = pytest.importorskip("gguf")
    model = a_model(0, "bytes", Sizes(256, 16, 2, 2, 32))
    gguf.write_model(tmp_path / "m.gguf", model, dtype)
    reader = package.GGUFReader(tmp_path / "m.gguf")
    assert reader.fields["gpt2.attention.head_count"].contents() == 2
    assert reader.fields["tokenizer.ggml.tokens"].contents()[65] == "A"
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert len(found) == len(model.tensors)
    tensor = found["blk.1.ffn_up.weight"]
    values = package.dequantize(tensor.data, tensor.tensor_type).reshape(128, 32)
    expected = model.tensors["h.1.fc.w"]
    if dtype == "q8_0":
        quantised = package.quantize(expected, package.GGMLQuantizationType.Q8_0)
        np.testing.assert_array_equal(tensor.data.reshape(quantised.shape), quantised)
    else:
        np.testing.assert_allclose(values, expected, rtol=0 if dtype == "f32" else 2**-8)


def test_llama_cpp_writes_the_same(cache: Cache, tmp_path: Path) -> None:
    """Greedy tokens of llama.cpp out of the exported file are those of gptc."""
    llama = pytest.importorskip("llama_cpp")
    compiled = compile_model(Request(TINY, Options(mode="infer"), ("dims.V=256",), batch=1), tmp_path, cache)
    ours = CpuModel(compiled.artefact, build_model(compiled, cache).library)
    model, prompt = a_model(3, "bytes", Sizes(256, 16, 2, 2, 32)), list(b"gptc")
    write_weights(tmp_path / "w", model)
    load_weights(ours, tmp_path / "w")
    expected = list(generate(ours, prompt, 12, Sampling(temperature=0)))
    for dtype in ("f32", "bf16", "q8_0"):
        gguf.write_model(tmp_path / "m.gguf", model, dtype)
        theirs = llama.Llama(str(tmp_path / "m.gguf"), n_ctx=16, verbose=False)
        assert theirs.tokenize(b"gptc", add_bos=False) == prompt
        found = [token for token, _ in zip(theirs.generate(prompt, temp=0), range(12), strict=False)]
        assert found[: 12 if dtype == "f32" else 1] == expected[: 12 if dtype == "f32" else 1]
