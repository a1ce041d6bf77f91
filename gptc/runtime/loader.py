"""Batches in a reproducible order, as llm.c's dataloader serves them (`llmc/dataloader.h`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptc.errors import GptcError, InputError
from gptc.runtime.rng import Mt19937
from gptc.runtime.shard import Ids, Reader, Tokens

Batch = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Inputs and targets i32[B,T]."""

SHUFFLE_SEED = 42
STATE_FORMAT = 1


@dataclass(frozen=True)
class LoaderState:
    """Where a loader stands: what `Loader.state` gives and `Loader.resume` takes, as a dict of JSON values."""

    format: int
    """STATE_FORMAT."""
    next: int
    """Number of the batch that comes next, counted from 0 over all epochs."""
    sample: int
    """Tokens that all ranks together take at a time: world * B * T."""
    seed: int | None
    """Of the shuffle; None: file order."""
    shards: int
    tokens: int
    """In all shards."""
    data: str
    """SHA-256 of the JSON list of [file name, tokens] of every shard."""


class Loader:
    """Batches of B*T consecutive tokens, and for targets the tokens after them.

    A sample is world*B*T tokens of a shard; rank r reads the B*T of them from r*B*T on.  An epoch takes every sample
    of every shard once; what remains at the end of a shard, or all of one that is shorter, is not read.  With a seed
    the order of the shards, and in each shard that of its samples, is a new permutation in every epoch (Fisher-Yates
    on one mt19937 stream); without, it is that of the files.  Ranks with the same seed read together what one rank
    would read with a batch of world*B; llm.c seeds rank r with 42 + r, so that each goes its own way.

    Batch i is a function of i alone, so any position is reached by arithmetic and a few skipped random numbers.
    """

    def __init__(
        self, shards: Sequence[Tokens], batch: int, seq: int, vocab: int, seed: int | None = None,
        rank: int = 0, world: int = 1,
    ) -> None:  # fmt: skip
        if not 0 <= rank < world:
            raise InputError.of(f"rank {rank} is not in 0..{world - 1}")
        self._all, self._shape, self._vocab, self._rank = tuple(shards), (batch, seq), vocab, rank
        self._sample = world * batch * seq
        self._shards = tuple(shard for shard in shards if shard.count > self._sample)
        if not self._shards:
            longest = max(shards, key=lambda shard: shard.count)
            need = f"{whose_batches(batch, seq, world)} need {self._sample + 1}"
            message = f"{longest.name}: {longest.count} tokens; {need}"
            hint = "use more text, or compile the model with a smaller --batch or --seq"
            raise InputError.of(message, None, hint)
        counts = [(shard.count - 1) // self._sample for shard in self._shards]
        self._order = _Order(counts, seed)
        self._open: tuple[int, Reader] | None = None
        self.samples = sum(counts)
        """Batches in an epoch."""
        self.tokens = sum(shard.count for shard in shards)
        """In all shards."""

    def batch(self, index: int) -> Batch:
        """Batch number `index`, counted from 0 over all epochs.  Raises InputError at an id beyond the vocabulary."""
        shard, sample = self._order.locate(index)
        n = self._shape[0] * self._shape[1]
        at = sample * self._sample + self._rank * n
        ids = self._reader(shard)(at, n + 1)
        if ids.max() >= self._vocab:
            raise beyond_vocabulary(self._shards[shard].name, self._shards[shard].start + at, ids, self._vocab)
        window = ids.astype(np.int32)
        return window[:-1].reshape(self._shape), window[1:].reshape(self._shape)

    def state(self, index: int) -> dict[str, object]:
        """What `resume` needs to go on with batch `index`: the fields of LoaderState."""
        counts = len(self._all), self.tokens, self._digest()
        return asdict(LoaderState(STATE_FORMAT, index, self._sample, self._order.seed, *counts))

    def resume(self, state: Mapping[str, object]) -> int:
        """The number of the batch to go on with.  Raises InputError where the state is of other data.

        Where world*B*T has changed the order is another, so it goes on after as many tokens of the same epoch.
        """
        then = _parse(state)
        now = _parse(self.state(then.next))
        if (then.data, then.shards, then.tokens) != (now.data, now.shards, now.tokens):
            theirs, ours = (f"{s.shards} shards of {s.tokens} tokens ({s.data[:12]})" for s in (then, now))
            raise InputError.of(f"loader state of other data: {theirs}; this run has {ours}")
        if then.seed != now.seed:
            raise InputError.of(f"loader state of the shuffle seed {then.seed}; this run has {now.seed}")
        if then.sample == now.sample:
            return then.next
        samples = sum((shard.count - 1) // then.sample for shard in self._all)
        epoch, position = divmod(then.next, max(1, samples))
        return epoch * self.samples + min(self.samples, -(-position * then.sample // now.sample))

    def _digest(self) -> str:
        names = [[Path(shard.name).name, shard.count] for shard in self._all]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    def _reader(self, shard: int) -> Reader:
        """One file is open at a time; it is verified first."""
        if self._open is None or self._open[0] != shard:
            self._shards[shard].verify()
            self._open = shard, self._shards[shard].open()
        return self._open[1]


def whose_batches(batch: int, seq: int, world: int) -> str:
    """For messages: what has to be filled with tokens at a time."""
    return f"{f'{world} ranks with batches' if world > 1 else 'batches'} of {batch} x {seq}"


def beyond_vocabulary(name: str, at: int, ids: Ids, vocab: int) -> GptcError:
    """The error for the first of `ids`, the first of which is number `at`, that the compiled code cannot look up."""
    first = int(np.argmax(ids >= vocab))
    hint = "was it made with the tokenizer of this model?"
    return InputError.of(f"{name}: token {at + first} is {ids[first]}; the model has {vocab}", None, hint)


class _Order:
    """Which sample of which shard comes when."""

    def __init__(self, counts: Sequence[int], seed: int | None) -> None:
        self.seed = seed
        self._counts = np.array(counts, np.int64)
        self._restart()

    def locate(self, index: int) -> tuple[int, int]:
        """Shard and sample of batch `index`."""
        epoch, position = divmod(index, int(self._counts.sum()))
        if self.seed is not None and epoch != self._epoch:
            self._enter(epoch)
        place = int(np.searchsorted(self._ends, position, side="right"))
        shard = int(self._shards[place])
        sample = position - int(self._ends[place] - self._counts[shard])
        return shard, sample if self.seed is None else int(self._permutation(place)[sample])

    def _restart(self) -> None:
        """Before the first epoch; without a seed this is also how every epoch goes."""
        self._rng, self._drawn = Mt19937(self.seed or 0), 0
        self._epoch, self._place = -1, -1
        self._shards = np.arange(len(self._counts))
        self._ends = np.cumsum(self._counts)
        self._samples = np.arange(0)

    def _enter(self, epoch: int) -> None:
        """Put the shards in the order of that epoch, which is the order of the epoch before it, shuffled."""
        if epoch < self._epoch:
            self._restart()
        while self._epoch < epoch:
            self._epoch += 1
            self._seek(self._epoch * int(self._counts.sum() - 1))
            self._shards = self._shards[self._draw(len(self._shards))]
        self._ends = np.cumsum(self._counts[self._shards])
        self._place = -1

    def _permutation(self, place: int) -> NDArray[np.int64]:
        """The order of the samples in the shard that comes at `place` in this epoch."""
        if place != self._place:
            before = int(self._counts[self._shards[:place]].sum()) - place
            self._seek(self._epoch * int(self._counts.sum() - 1) + len(self._shards) - 1 + before)
            self._samples, self._place = self._draw(int(self._counts[self._shards[place]])), place
        return self._samples

    def _draw(self, n: int) -> NDArray[np.int64]:
        self._drawn += n - 1  # of random numbers, which is what a permutation of n takes
        return self._rng.permutation(n)

    def _seek(self, drawn: int) -> None:
        """Bring the stream to where that many numbers have been drawn; an epoch of S shards takes S - 1 for their
        order and n - 1 for a shard of n samples, so one less than it has samples."""
        if drawn < self._drawn:
            assert self.seed is not None
            self._rng, self._drawn = Mt19937(self.seed), 0
        self._rng.skip(drawn - self._drawn)
        self._drawn = drawn


def _parse(state: Mapping[str, object]) -> LoaderState:
    """Types and ranges of a state that comes from a file."""
    fields = dict(state)
    kinds = {"format": int, "next": int, "sample": int, "shards": int, "tokens": int, "data": str}
    optional = fields.get("seed")
    good = fields.keys() == kinds.keys() | {"seed"} and (optional is None or type(optional) is int)
    if not good or any(type(fields[name]) is not kind for name, kind in kinds.items()):
        raise InputError.of(f"loader state with the fields {', '.join(map(str, fields))}: not one of gptc's")
    found = LoaderState(**fields)  # type: ignore[arg-type]
    if found.format != STATE_FORMAT or found.next < 0 or found.sample < 1:
        have = f"format {found.format}, next {found.next}, sample {found.sample}"
        raise InputError.of(f"loader state with {have}; expected format {STATE_FORMAT}, next >= 0, sample >= 1")
    return found
