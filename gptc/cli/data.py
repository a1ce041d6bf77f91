"""`gptc data`: text becomes token shards, and what is there is checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptc.cli.flags import Json

if TYPE_CHECKING:
    from gptc.cli.output import Output
    from gptc.corpus.prepare import Preparation
    from gptc.runtime.dataset import Dataset

Sources = Annotated[
    list[Path] | None, typer.Argument(help="Text, .jsonl, .parquet, or folders of them (default: Python's library).")
]
Field = Annotated[str, typer.Option("--field", help="Where the text is in a record of JSONL or parquet.")]


def prepare(
    sources: Sources = None,
    recipe: Annotated[
        str | None, typer.Option(help="tinyshakespeare, tinystories, fineweb-edu or hellaswag, from the network.")
    ] = None,
    given: Annotated[list[Path] | None, typer.Option("--from", help="Files of the recipe, already fetched.")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="bytes (default), gpt2 (recipes'), others of tiktoken, or a file .tiktoken, .bin."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The new folder (default: data/NAME).")] = None,
    name: Annotated[str | None, typer.Option(help="What the files are called (default: as the source).")] = None,
    field: Field = "text",
    val: Annotated[list[Path] | None, typer.Option(help="Text to validate on (default: the first tokens).")] = None,
    val_tokens: Annotated[int | None, typer.Option(min=0, help="How many (default: a tenth, at most 10M).")] = None,
    shard_tokens: Annotated[int, typer.Option(min=1, help="Tokens in a shard.")] = 100_000_000,
    tokens: Annotated[int | None, typer.Option(min=1, help="Stop after so many tokens to train on.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="To tokenise in (default: one a core).")] = None,
    json: Json = False,
) -> None:
    """Make a folder of token shards, in the format of llm.c, with a manifest."""
    import signal

    from gptc.cli.output import Output
    from gptc.corpus.prepare import Preparation
    from gptc.corpus.recipes import check_recipe
    from gptc.errors import UsageError

    if recipe is not None:
        check_recipe(recipe)
    if (recipe and (sources or val)) or (given and not recipe):
        raise UsageError.of("either sources, or --recipe and perhaps --from")
    if val and val_tokens is not None:
        raise UsageError.of("either --val or --val-tokens")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is half done is removed, as after Ctrl-C
    output = Output(json)
    chosen = name or recipe or (_stem(sources[0]) if sources else "python")
    codec = tokenizer or ("gpt2" if recipe else "bytes")
    how = Preparation(codec, out or Path("data") / chosen, chosen, shard_tokens, val_tokens, tokens, processes)
    if recipe == "hellaswag":
        dataset = _hellaswag(given or [], how, output)
    elif recipe:
        dataset = _recipe(recipe, given or [], how, output)
    else:
        dataset = _files(sources or [], val or [], field, how, output)
    _say(dataset, how.out, output)


def _stem(source: Path) -> str:
    import re

    return re.sub(r"[^A-Za-z0-9_.-]+", "_", source.resolve().stem).lstrip(".-")[:100] or "data"


def _files(sources: list[Path], val: list[Path], field: str, how: Preparation, output: Output) -> Dataset:
    from gptc.corpus.prepare import prepare
    from gptc.corpus.sources import find_sources
    from gptc.runtime.data import standard_files

    train = find_sources(sources or standard_files(), field)
    with _Tokens(output) as report:
        return prepare(train, find_sources(val, field), how, report)


def _recipe(recipe: str, given: list[Path], how: Preparation, output: Output) -> Dataset:
    from dataclasses import replace

    from gptc.corpus.prepare import prepare
    from gptc.corpus.recipes import recipe_input

    with _Bytes(output) as fetched, recipe_input(recipe, given, _downloads(), how, fetched) as found:
        if how.val_tokens is None:
            how = replace(how, val_tokens=found.val_tokens)
        with _Tokens(output) as report:
            return prepare(found.train, found.val, how, report)


def _hellaswag(given: list[Path], how: Preparation, output: Output) -> Dataset:
    from gptc.corpus.recipes import prepare_hellaswag

    with _Bytes(output) as fetched:
        return prepare_hellaswag(given, _downloads(), how, fetched)


def _downloads() -> Path:
    from gptc.runtime.cache import default_root

    return default_root() / "downloads"


def _say(dataset: Dataset, folder: Path, output: Output) -> None:
    from gptc.cli.output import counted

    for split, shards in (("train", dataset.train), ("val", dataset.val)):
        if shards:
            count = sum(shard.tokens for shard in shards)
            output.line(f"{split}: {counted(count, 'token')} in {counted(len(shards), 'shard')}")
    for record in dataset.evaluation:
        output.line(counted(record.examples, "question"))
    output.line(f"{counted(dataset.documents, 'document')}, tokenizer {dataset.tokenizer.name}: {folder}")
    output.result({"folder": str(folder), "manifest": dataset.model_dump(mode="json")})


def verify(
    paths: Annotated[list[Path], typer.Argument(help="Folders, shards, questions, tokenizers.")],
    vocab: Annotated[int | None, typer.Option(min=1, help="Every id is to be below this.")] = None,
    json: Json = False,
) -> None:
    """Check every byte: headers, sizes, hashes, and every id."""
    from dataclasses import asdict

    from gptc.cli.output import Output, Ticker
    from gptc.corpus.verify import verify as check

    output = Output(json)
    done = 0
    with Ticker(output, "checked") as tick:

        def report(file: str) -> None:
            nonlocal done
            done += 1
            tick(done, done, file)

        sound = check(paths, vocab, report)
    for item in sound:
        output.line(f"{item.file}: {item.kind}, {item.count:,}, sound")
    output.result({"sound": [asdict(item) for item in sound]})


def train_bpe(
    sources: Annotated[list[Path], typer.Argument(help="Text, .jsonl, .parquet, or folders of them.")],
    vocab: Annotated[int, typer.Option(min=257, help="Tokens, with the 256 bytes and the end of text.")] = 4096,
    out: Annotated[Path, typer.Option(help="A new .tiktoken, or a .bin as llm.c has it.")] = Path("bpe.tiktoken"),
    field: Field = "text",
    json: Json = False,
) -> None:
    """Learn a byte-pair encoding from text."""
    from gptc.cli.output import Output, Ticker
    from gptc.corpus.bpe import train
    from gptc.corpus.sources import find_sources, text_of
    from gptc.runtime.vocabulary import write_vocabulary

    output = Output(json)
    _require_new(out)
    with Ticker(output, "token") as tick:
        learnt = train(text_of(find_sources(sources, field)), vocab, lambda done: tick(done, vocab))
    write_vocabulary(out, learnt)
    output.line(f"{vocab:,} tokens in {out}")
    output.result({"tokenizer": str(out), "vocab": vocab, "end_of_text": learnt.end_of_text})


def convert_tokenizer(
    tokenizer: Annotated[str, typer.Argument(help="An encoding of tiktoken, or a file .tiktoken or .bin.")],
    out: Annotated[Path, typer.Option(help="A new .bin (llm.c's tokenizer.bin) or .tiktoken.")],
    json: Json = False,
) -> None:
    """Write a tokenizer into a file, for llm.c or for machines without a network."""
    from gptc.cli.output import Output
    from gptc.runtime.tokenizer import load_tokenizer, vocabulary_of
    from gptc.runtime.vocabulary import write_vocabulary

    output = Output(json)
    _require_new(out)
    found = vocabulary_of(load_tokenizer(tokenizer))
    write_vocabulary(out, found)
    output.line(f"{len(found.tokens):,} tokens in {out}")
    output.result({"tokenizer": str(out), "vocab": len(found.tokens), "end_of_text": found.end_of_text})


def _require_new(path: Path) -> None:
    """Nothing is overwritten, and what cannot be written is told before the work."""
    from gptc.errors import InputError
    from gptc.runtime.vocabulary import need_suffix

    need_suffix(path)
    if path.exists():
        raise InputError.of(f"{path}: exists already, and nothing is overwritten", None, "name another file with --out")


class _Tokens:
    """Progress of tokenising."""

    def __init__(self, output: Output) -> None:
        from gptc.cli.output import Ticker

        self._ticker = Ticker(output, "MB of text")

    def __enter__(self) -> Callable[..., None]:
        self._ticker.__enter__()
        return lambda now: self._ticker(now.bytes // 10**6, now.total_bytes // 10**6, f"{now.tokens:,} tokens")

    def __exit__(self, *failure: object) -> None:
        self._ticker.__exit__(*failure)


class _Bytes(_Tokens):
    """Progress of fetching."""

    def __enter__(self) -> Callable[..., None]:
        self._ticker.what = "MB"
        self._ticker.__enter__()
        return lambda name, here, total: self._ticker(here // 10**6, (total or here) // 10**6, name)


ACTIONS: dict[str, Callable[..., None]] = {
    "prepare": prepare,
    "verify": verify,
    "train-bpe": train_bpe,
    "tokenizer": convert_tokenizer,
}
