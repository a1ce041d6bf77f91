"""Models of the Llama family from and for Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gptc.cli import interop
from gptc.cli import llama as command
from gptc.cli.output import Output
from gptc.compiler import build_model, compile_model
from gptc.errors import InputError
from gptc.ir.types import DType
from gptc.model import build_graph, load_description
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir
from gptc.runtime.cache import Cache
from gptc.runtime.cpu import CpuModel
from gptc.runtime.generate import Cached, Sampling, generate
from gptc.runtime.interop import llama
from gptc.runtime.interop.hub import CONFIG, MODEL
from gptc.runtime.interop.llama import Llama
from gptc.runtime.tokenizer import load_tokenizer
from gptc.runtime.weights import load_weights
from tests.system.reference import rounding

SIZES = Llama(61, 16, 2, 4, 2, 32, 8, 48, 500.0, 1e-5, tie_word_embeddings=True)
DIMS = {"V: 256": "V: 61", "T: 128": "T: 16", "L: 4": "L: 2", "C: 128": "C: 32", "F: 3 * C": "F: 48"}
QUIET = Output(True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """models/llama-nano.yaml at these sizes."""
    text = (models_dir() / "llama-nano.yaml").read_text()
    for old, new in {**DIMS, "positions)": "positions, theta=500)"}.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "little.yaml").write_text(text)
    return tmp_path / "little.yaml"


def tensors(about: Llama, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) / 4 for name, shape in about.shapes().items()}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    llama.write_model(tmp_path / "hf", SIZES, tensors(SIZES))
    return tmp_path / "hf"


def test_there_and_back(model: Path, stored: Path, tmp_path: Path) -> None:
    """Through gptc's own file; also a head of its own, and buffers and a copy of the embedding beside the weights."""
    interop.import_(stored, tmp_path / "w", model=model)
    interop.export(tmp_path / "w", tmp_path / "again", "hf", model=model)
    assert (stored / MODEL).read_bytes() == (tmp_path / "again" / MODEL).read_bytes()
    assert json.loads((stored / CONFIG).read_text()) == json.loads((tmp_path / "again" / CONFIG).read_text())
    found = load_file(stored / MODEL)
    assert found["model.layers.1.self_attn.k_proj.weight"].shape == (16, 32)
    extra = {llama.HEAD: found["model.embed_tokens.weight"], f"model.layers.0.self_attn{llama.ROTARY}": np.ones(4)}
    save_file(found | {name: value.astype(np.float32) for name, value in extra.items()}, stored / MODEL)
    about, back = llama.read_model(stored)
    assert about == SIZES
    assert all(np.array_equal(value, tensors(SIZES)[name]) for name, value in back.items())
    untied = Llama(**{**vars(SIZES), "tie_word_embeddings": False})
    llama.write_model(stored, untied, tensors(untied))
    assert llama.HEAD in load_file(stored / MODEL)
    assert llama.read_model(stored)[0] == untied
    with pytest.raises(InputError, match=r"tie_word_embeddings is False; .*little\.yaml has True"):
        command.bring(stored, tmp_path / "w", model, None, QUIET)


def config(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        found = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(found | changes))

    return damage


def weight(name: str, value: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        found = load_file(folder / MODEL) | {name: value}
        save_file({n: v for n, v in found.items() if v is not None}, folder / MODEL)

    return damage


ZERO = np.zeros((61, 32), np.float32)
UNFIT = [
    (config(rope_theta=10000.0), "rope_theta is 10000.0; .*little.yaml has 500.0"),
    (config(rms_norm_eps=1e-6), "rms_norm_eps is 1e-06; .*little.yaml has 1e-05"),
    (config(max_position_embeddings=8), "max_position_embeddings is 8; .*little.yaml has 16"),
    (config(rope_theta="big"), "rope_theta is 'big'; expected a positive number"),
    (config(rope_scaling={"type": "linear"}), "rope_scaling is {'type': 'linear'}; gptc's llama has None"),
    (config(rope_parameters={"rope_type": "yarn"}), "gptc turns by unscaled positions"),
    (config(hidden_act="gelu"), "hidden_act is 'gelu'; gptc's llama has 'silu'"),
    (config(model_type="gpt2"), "model_type is 'gpt2'; expected 'llama'"),
    (config(num_hidden_layers=3), "h.2.norm_1 is missing; a Llama of these sizes has"),
    (config(vocab_size=0), "vocab_size is 0; expected a positive number"),
    (weight("model.norm.weight", None), "norm_f is missing"),
    (weight("model.layers.0.mlp.up_proj.bias", ZERO), "mlp.up_proj.bias is .61, 32.; a Llama of these sizes has miss"),
    (weight("model.layers.0.mlp.up_proj.weight", ZERO), "h.0.up is .61, 32.; a Llama of these sizes has .48, 32."),
    (weight(llama.HEAD, ZERO), "lm_head.weight is not the embedding"),
]


@pytest.mark.parametrize(("damage", "message"), UNFIT)
def test_what_does_not_fit(damage: Any, message: str, model: Path, stored: Path, tmp_path: Path) -> None:
    damage(stored)
    with pytest.raises(InputError, match=message):
        command.bring(stored, tmp_path / "w", model, None, QUIET)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("gpt2-nano", "no attention|no rms_norm|no gate"), ("smollm2-135m", "wte")]
)
def test_another_model(name: str, message: str, stored: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        command.bring(stored, tmp_path / "w", models_dir() / f"{name}.yaml", None, QUIET)
    with pytest.raises(InputError, match=message):
        command.send(stored / MODEL, tmp_path / "out", models_dir() / f"{name}.yaml", "f32", QUIET)


def test_what_only_one_family_has(model: Path, stored: Path, tmp_path: Path) -> None:
    """Nothing is guessed: a Llama needs its model file, and GPT-2 has none of that."""
    with pytest.raises(InputError, match="a Llama"):
        interop.import_(stored, tmp_path / "w")
    with pytest.raises(InputError, match="--state is of GPT-2"):
        interop.import_(stored, tmp_path / "w", state=stored, model=model)
    with pytest.raises(InputError, match="--to gguf is of GPT-2"):
        interop.export(stored / MODEL, tmp_path / "out", "gguf", model=model)
    with pytest.raises(InputError, match=r"no folder with config\.json"):
        interop.import_(tmp_path, tmp_path / "w", model=model)
    assert not list(tmp_path.glob("w*"))


def test_the_published_sizes() -> None:
    """SmolLM2 135M has 134,515,008 parameters."""
    _, about = command.declared(models_dir() / "smollm2-135m.yaml")
    assert sum(int(np.prod(shape)) for shape in about.shapes().values()) == 134_515_008
    assert (about.rope_theta, about.num_key_value_heads, about.head_dim) == (1e5, 3, 64)


def test_text_as_numbers() -> None:
    numbers = load_tokenizer("ids")
    assert list(numbers.encode(b"504  49151\n3")) == [504, 49151, 3]
    assert numbers.decode([7, 49151]) == b" 7 49151"
    for text in (b"7 x", b"-1", b"99999999999", "\u0661".encode()):
        with pytest.raises(InputError, match="is no token id"):
            numbers.encode(text)


def test_transformers_computes_the_same(model: Path, cache: Cache, tmp_path: Path) -> None:
    """Logits, greedy tokens, loss and all gradients of a random LlamaForCausalLM; and ours, exported, there."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    sizes = {k: v for k, v in vars(SIZES).items() if k != "rope_theta"}
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, rope_theta=SIZES.rope_theta)).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # norms are 1 otherwise
    theirs.save_pretrained(tmp_path / "theirs")
    command.bring(tmp_path / "theirs", tmp_path / "w", model, None, QUIET)

    ours = built(model, cache, tmp_path, "infer")
    load_weights(ours, tmp_path / "w")
    tokens = [3, 60, 7, 7, 0, 41, 19, 2]
    source, rows = Cached(ours), range(1, len(tokens) + 1)
    found = np.stack([source.logits(tokens[:n], 0)[:61].copy() for n in rows])
    with torch.no_grad():
        expected = theirs(torch.tensor([tokens])).logits[0].numpy()
        written = theirs.generate(torch.tensor([tokens]), max_length=16, do_sample=False, eos_token_id=None)
    share = 2 * rounding(build_graph(load_description(model), 1, 16, with_loss=False), DType.f32)
    np.testing.assert_allclose(found, expected, atol=share * np.abs(expected).max(), rtol=0)
    assert [*tokens, *generate(ours, tokens, 8, Sampling(temperature=0))] == written[0].tolist()

    command.send(tmp_path / "w", tmp_path / "ours", model, "f32", QUIET)
    back = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        np.testing.assert_array_equal(back(torch.tensor([tokens])).logits[0].numpy(), expected)
    gradients(theirs, built(model, cache, tmp_path, "train"), model, tmp_path / "w")


def built(path: Path, cache: Cache, folder: Path, mode: str) -> CpuModel:
    options = Options(mode=mode)  # type: ignore[arg-type]
    compiled = compile_model(
        Request(path, options, batch=2 if mode == "train" else 1, seq=16, micro_steps=2), folder, cache
    )
    return CpuModel(compiled.artefact, build_model(compiled, cache).library)


def gradients(theirs: Any, ours: CpuModel, path: Path, weights: Path) -> None:
    """Two sequences; both compute in f32, so each element may be off by roundings of the largest."""
    import torch

    load_weights(ours, weights)
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 61, (2, 2, 16))
    ours["tokens"][...], ours["targets"][...], ours["first"][...] = tokens, targets, 1.0
    ours.run("micro_step")
    logits = theirs(torch.tensor(tokens)).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 61), torch.tensor(targets).reshape(-1))
    loss.backward()
    graph = build_graph(load_description(path), 2, 16)
    share = 2 * rounding(graph, DType.f32)
    assert abs(float(ours["loss"]) - loss.item()) <= share * loss.item()
    words = dict(theirs.named_parameters())
    for name in SIZES.shapes():
        expected = words[llama.names([name])[name]].grad.numpy() / 2  # of two micro-steps
        np.testing.assert_allclose(ours[f"{name}.grad"], expected, atol=share * np.abs(expected).max(), rtol=0)
