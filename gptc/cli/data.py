"""`gptc data`: text becomes tokens that a native trainer can read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gptc.cli.flags import Json


def prepare(
    text: Annotated[Path | None, typer.Argument(help="Text file (default: Python's standard library).")] = None,
    tokenizer: Annotated[str, typer.Option("--tokenizer", help="bytes or gpt2.")] = "bytes",
    out: Annotated[Path, typer.Option("--out", help="The shard to write.")] = Path("tokens.bin"),
    json: Json = False,
) -> None:
    """Write text as a token shard, in the format of llm.c."""
    from gptc.cli.output import Output
    from gptc.errors import InputError
    from gptc.runtime.data import read_text
    from gptc.runtime.shard import write_shard

    output = Output(json)
    tokens = read_text(text, tokenizer).ids
    if text is not None and out.exists() and out.samefile(text):
        raise InputError.of(f"{out} is the text itself", None, "name another file with --out")
    write_shard(out, tokens)
    output.line(f"{len(tokens):,} tokens in {out}")
    output.result({"shard": str(out), "tokens": len(tokens), "tokenizer": tokenizer})


ACTIONS: dict[str, Callable[..., None]] = {"prepare": prepare}
