"""`gptc generate`: text from trained weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gptc.cli.flags import Job, Json, Seed, Threads, TokenizerName, compiles


@compiles("infer")
def generate(
    job: Job,
    weights: Annotated[Path | None, typer.Option(help="Weights (default: runs/MODEL/weights.safetensors).")] = None,
    prompt: Annotated[str, typer.Option(help="Text to continue (default: a new line).", show_default=False)] = "\n",
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to write.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="Below 1 is safer, above 1 wilder; 0 is greedy.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Choose among the K likeliest tokens.")] = None,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest that make up this probability.")] = 1.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    tokenizer: TokenizerName = None,
    threads: Threads = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Write text with trained weights."""
    import sys
    import time

    from gptc.cli.compile import compile_and_build, for_inference
    from gptc.cli.output import Output, seconds
    from gptc.cli.train import WEIGHTS
    from gptc.runtime.generate import SEED, Sampling
    from gptc.runtime.generate import generate as write
    from gptc.runtime.model import load_model
    from gptc.runtime.tokenizer import load_tokenizer
    from gptc.runtime.weights import load_weights

    output = Output(json)
    sampling = Sampling(0.0 if greedy else temperature, top_k, top_p, SEED if seed is None else seed)
    compiled, built = compile_and_build(for_inference(job), output)
    manifest = compiled.artefact.manifest
    codec = load_tokenizer(tokenizer or manifest.tokenizer)
    model = load_model(compiled.artefact, built.library, threads)
    load_weights(model, weights or Path("runs") / manifest.model / WEIGHTS)
    start, ids = time.perf_counter(), codec.encode(prompt.encode()).tolist()
    found = []
    say = (lambda text: None) if json else _writer()
    say(prompt.encode())
    for token in write(model, ids, tokens, sampling):
        found.append(token)
        say(codec.decode([token]))
    took = time.perf_counter() - start
    say(b"\n")
    print(f"{len(found)} tokens in {seconds(took)} ({len(found) / took:,.1f} tokens/s)", file=sys.stderr)
    text = codec.decode(found).decode("utf-8", "replace")
    output.result({"prompt": prompt, "text": text, "tokens": found, "seconds": took, "seed": sampling.seed})


def _writer() -> Callable[[bytes], None]:
    """Writes text as it comes: to a terminal only what it can show, else every byte."""
    import codecs
    import sys

    from gptc.cli.output import printable

    decoder = codecs.getincrementaldecoder("utf-8")("replace") if sys.stdout.isatty() else None

    def say(text: bytes) -> None:
        sys.stdout.buffer.write(printable(decoder.decode(text)).encode() if decoder else text)
        sys.stdout.buffer.flush()

    return say
