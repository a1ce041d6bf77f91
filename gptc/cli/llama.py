"""Weights of the Llama family from and for Hugging Face: the model file says what no weight tells, theta and eps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gptc.errors import InputError

if TYPE_CHECKING:
    from gptc.cli.output import Output
    from gptc.model import Description
    from gptc.runtime.interop.llama import Llama

T = TypeVar("T")


def bring(source: Path, out: Path, file: Path, tokenizer: str | None, output: Output) -> None:
    """Read a folder of Hugging Face into a file of weights for the model that `file` declares."""
    from gptc.runtime.interop import hub, llama

    if not hub.is_model(source):
        raise InputError.of(f"{source}: no folder with {hub.CONFIG}", None, f"--model is for {hub.CONFIG}'s Llamas")
    model, ours = declared(file)
    about, tensors = llama.read_model(source)
    about.need_same(ours, source, file)
    llama.write_weights(out, tensors, model.name, model.dims, tokenizer or model.tokenizer)
    _tell(output, about, out)


def send(weights: Path, out: Path, file: Path, dtype: str, output: Output) -> None:
    """Write the weights of the model that `file` declares as a folder of Hugging Face."""
    from gptc.runtime.interop import llama

    _, about = declared(file)
    llama.write_model(out, about, llama.read_weights(weights, about), dtype)
    _tell(output, about, out)


def declared(file: Path) -> tuple[Description, Llama]:
    """What a model file declares.  Raises InputError where it is no Llama."""
    from gptc.ir.ops.attention import Attention
    from gptc.ir.ops.norm import RmsNorm
    from gptc.ir.ops.rotary import Angles
    from gptc.model import build_graph, load_description
    from gptc.runtime.interop.llama import Llama

    model = load_description(file)
    graph = build_graph(model, 1, 2, with_loss=False)
    shapes = {p.name: tuple(map(int, p.valid)) for p in model.params}
    attention = [n for n in graph.nodes if isinstance(n.op, Attention)]
    embedding = _one((shape for name, shape in shapes.items() if name == "wte"), "embedding wte", file)
    queries = _one((n.operands[0].type.shape for n in attention), "attention", file)
    keys = _one((n.operands[1].type.shape for n in attention), "attention", file)
    about = Llama(
        vocab_size=embedding[0],
        max_position_embeddings=model.dims.get("T", 0),
        num_hidden_layers=len(attention),
        num_attention_heads=int(queries[1]),
        num_key_value_heads=int(keys[1]),
        hidden_size=embedding[1],
        head_dim=int(queries[3]),
        intermediate_size=_one((shape for name, shape in shapes.items() if name.endswith(".gate")), "gate", file)[0],
        rope_theta=_one((n.op.theta for n in graph.nodes if isinstance(n.op, Angles)), "rope", file),
        rms_norm_eps=_one((n.op.eps for n in graph.nodes if isinstance(n.op, RmsNorm)), "rms_norm", file),
        tie_word_embeddings="head" not in shapes,
    )
    about.need_shapes(shapes, file)
    return model, about


def _one(found: Iterable[T], what: str, file: Path) -> T:
    """The value that all of them are."""
    values = list(dict.fromkeys(found))
    if len(values) != 1:
        problem = f"no {what}" if not values else f"{len(values)} kinds of {what}"
        hint = "models/llama-nano.yaml and models/smollm2-135m.yaml show what is known as one"
        raise InputError.of(f"{file}: no Llama: it has {problem}", None, hint)
    return values[0]


def _tell(output: Output, about: Llama, written: Path) -> None:
    output.line(
        f"Llama: {about.num_hidden_layers} layers, {about.num_attention_heads} heads on {about.num_key_value_heads}, "
        f"{about.hidden_size} channels, {about.vocab_size} tokens, {about.max_position_embeddings} positions"
    )
    output.line(f"written: {written}")
    output.result({"written": [str(written)], "about": vars(about)})
