"""`gptc import` and `gptc export`: weights of GPT-2 and Llama from and for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptc.cli.flags import Json, choice

if TYPE_CHECKING:
    from gptc.cli.output import Output
    from gptc.runtime.interop.gpt2 import Gpt2

FORMATS = ("hf", "llmc", "gguf")
Tokenizer = Annotated[str | None, typer.Option("--tokenizer", help="The tokenizer of the weights (default: as known).")]


Model = Annotated[
    Path | None, typer.Option("--model", help="Of a Llama: its model file, or the name of one that comes with gptc.")
]


def import_(
    source: Annotated[Path, typer.Argument(help="A model.bin of llm.c, or a folder of Hugging Face.")],
    out: Annotated[Path, typer.Argument(help="The weights to write; with --state a folder of checkpoints.")],
    state: Annotated[Path | None, typer.Option(help="llm.c's optimizer state beside its model.")] = None,
    model: Model = None,
    tokenizer: Tokenizer = None,
    json: Json = False,
) -> None:
    """Read weights of GPT-2 from llm.c, of GPT-2 or a Llama from Hugging Face; no pickles."""
    from dataclasses import replace
    from functools import partial

    from gptc.cli import llama
    from gptc.cli.flags import model_file
    from gptc.cli.output import Output
    from gptc.errors import InputError
    from gptc.runtime.history import History
    from gptc.runtime.interop import gpt2, training

    output = Output(json)
    if model is not None:
        if state is not None:
            raise InputError.of("--state is of GPT-2, and --model of a Llama", None, "leave one of them out")
        llama.bring(source, out, model_file(model), tokenizer, output)
        return
    if state is None:
        found = _read(source)
        gpt2.write_weights(out, replace(found, tokenizer=tokenizer or found.tokenizer))
    else:
        found, moments, rows = training.read_pair(source, state)
        found = replace(found, tokenizer=tokenizer or found.tokenizer)
        history = History(out)
        with history.writing():
            out = history.add(moments.step, partial(training.write_checkpoint, model=found, moments=moments, rows=rows))
            history.flush()
    _tell(output, found, [out])


def export(
    weights: Annotated[Path, typer.Argument(help="Weights, or a checkpoint's folder.")],
    out: Annotated[Path, typer.Argument(help="What to write: a folder for hf, and for llmc from a checkpoint.")],
    to: Annotated[str, typer.Option("--to", help="hf, llmc or gguf.", parser=choice(*FORMATS))],
    dtype: Annotated[
        str, typer.Option(help="Of the matrices: f32, bf16, for gguf also q8_0.", parser=choice("f32", "bf16", "q8_0"))
    ] = "f32",
    model: Model = None,
    tokenizer: Tokenizer = None,
    json: Json = False,
) -> None:
    """Write weights of GPT-2 for Hugging Face, llm.c or llama.cpp, of a Llama for Hugging Face."""
    from dataclasses import replace

    from gptc.cli import llama
    from gptc.cli.flags import model_file
    from gptc.cli.output import Output
    from gptc.errors import InputError
    from gptc.runtime.history import verified
    from gptc.runtime.interop import gguf, gpt2, huggingface, llmc, training

    output = Output(json)
    if dtype == "q8_0" and to != "gguf":
        raise InputError.of(f"{to} has no q8_0", None, "it is a type of --to gguf")
    if model is not None:
        if to != "hf":
            raise InputError.of(f"--to {to} is of GPT-2, and --model of a Llama", None, "a Llama goes --to hf")
        llama.send(weights, out, model_file(model), dtype, output)
        return
    found = gpt2.read_weights(weights)
    found = replace(found, tokenizer=tokenizer or found.tokenizer)
    written = [out]
    if to == "gguf":
        gguf.write_model(out, found, dtype)
    elif to == "hf":
        huggingface.write_model(out, found, dtype)
    elif weights.is_dir():
        written = [*training.write_pair(verified(weights), out, dtype)]
    else:
        llmc.write_model(out, found, dtype)
    _tell(output, found, written)


def _read(source: Path) -> Gpt2:
    from gptc.errors import InputError, StorageError
    from gptc.runtime.interop import hub, huggingface, llama, llmc

    try:
        if hub.is_model(source):
            if hub.model_type(source) == llama.MODEL_TYPE:
                hint = "name its model file with --model, with which sizes, theta and eps are compared"
                raise InputError.of(f"{source}: a Llama", None, hint)
            return huggingface.read_model(source)
        if source.is_file() and llmc.is_model(source):
            return llmc.read_model(source)
    except OSError as error:
        raise StorageError.of(f"{source}: cannot read: {error.strerror}") from None
    hint = "gptc imports llm.c's model.bin, and folders with config.json and model.safetensors; no pickles"
    raise InputError.of(f"{source}: {'not a known model' if source.exists() else 'no such file'}", None, hint)


def _tell(output: Output, model: Gpt2, written: list[Path]) -> None:
    sizes = model.sizes
    output.line(
        f"GPT-2: {sizes.layers} layers, {sizes.heads} heads, {sizes.channels} channels, {sizes.vocab} tokens, "
        f"{sizes.positions} positions"
    )
    for path in written:
        output.line(f"written: {path}")
    output.result({"written": [str(path) for path in written], "dims": sizes.dims, "tokenizer": model.tokenizer})
