"""`gptc generate`: text from trained weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptc.cli.flags import TRAINING, Job, Json, Seed, Threads, TokenizerName, compiles

if TYPE_CHECKING:
    from gptc.model import Description


@compiles("infer", without=("batch", *TRAINING))
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
    import time

    from gptc.cli.compile import compile_and_build, for_inference
    from gptc.cli.output import Output, counted, seconds
    from gptc.cli.train import WEIGHTS
    from gptc.model import load_description
    from gptc.runtime.generate import SEED, Sampling
    from gptc.runtime.generate import generate as write
    from gptc.runtime.model import load_model
    from gptc.runtime.tokenizer import load_tokenizer
    from gptc.runtime.weights import load_weights

    output = Output(json, aside=True)
    sampling = Sampling(0.0 if greedy else temperature, top_k, top_p, SEED if seed is None else seed)
    description = load_description(job.request.path, job.request.overrides)
    weights = weights or Path("runs") / description.name / WEIGHTS
    compiled, built = compile_and_build(for_inference(job, _window(job, description, weights)), output)
    manifest = compiled.artefact.manifest
    codec = load_tokenizer(tokenizer or manifest.tokenizer)
    model = load_model(compiled.artefact, built.library, threads)
    load_weights(model, weights)
    ids = codec.encode(prompt.encode()).tolist()
    written = write(model, ids, tokens, sampling)
    say = (lambda text: None) if json else _writer()
    say(prompt.encode())
    found, times = [], [time.perf_counter()]
    for token in written:
        times.append(time.perf_counter())
        found.append(token)
        say(codec.decode([token]))
    say(b"\n")
    first, rest, seen = times[1] - times[0], times[-1] - times[1], manifest.dims["T"]
    rate = (len(found) - 1) / rest if len(found) > 1 else None
    last = f"the last {seen:,} of " if len(ids) > seen else ""
    after = f", then {rate:,.1f} tokens/s" if rate else ""
    said = f"{last}{counted(len(ids), 'token')} of prompt in {seconds(first)}{after}"
    output.line(f"{counted(len(found), 'token')}: {said}")
    text = codec.decode(found).decode("utf-8", "replace")
    output.result({
        "prompt": prompt, "text": text, "tokens": found, "seed": sampling.seed,
        "prompt_tokens": len(ids), "first_seconds": first, "tokens_per_second": rate,
    })  # fmt: skip


def _window(job: Job, model: Description, weights: Path) -> int | None:
    """Positions that the model shall see: unless the command says, as many as its weights have learned.

    That need not be `train.seq`: imported weights know all of the model's.
    """
    from gptc.runtime.weights import trained_length

    trained, longest = trained_length(weights), model.dims.get("T")
    return job.request.seq or (trained if trained is None or longest is None else min(trained, longest))


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
