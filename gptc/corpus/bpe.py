"""Learning a byte-pair encoding from text (Sennrich et al. 2016), with the ties of tiktoken's educational trainer.

The commonest pair of neighbours becomes a token, again and again; of pairs that are equally common the one that
stands first in the text.  Words, in which all pairs lie, are counted once, so that a merge costs as much as the words
that it changes.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise

import regex

from gptc.errors import InputError
from gptc.runtime.tokenizer import PATTERN
from gptc.runtime.vocabulary import END_OF_TEXT, MAX_TOKEN_BYTES, Vocabulary

Pair = tuple[bytes, bytes]
Candidate = tuple[int, int, int, Pair]
"""Minus how often, and the first word with the pair, and where in it: the smallest is merged next."""
BYTES = 256


def train(documents: Iterable[str], size: int, report: Callable[[int], None] = lambda done: None) -> Vocabulary:
    """A vocabulary of `size` tokens: 256 bytes, what was learnt, and the end of text.

    Raises InputError where the text has too few different pairs.
    """
    if size < BYTES + 1:
        raise InputError.of(f"a vocabulary of {size}; it needs 256 bytes and the end of text, so at least {BYTES + 1}")
    words = Counter(word for text in documents for word in regex.findall(PATTERN, text))
    merger = _Merger(words)
    tokens = [bytes([i]) for i in range(BYTES)]
    known = set(tokens)
    while len(tokens) < size - 1:
        pair = merger.best()
        if pair is None:
            have = f"the text gives {len(tokens) + 1} tokens"
            raise InputError.of(f"{have}; {size} were asked for", None, "use more text, or a smaller --vocab")
        merger.merge(pair)
        if (token := pair[0] + pair[1]) not in known:  # else another pair has made the same bytes
            known.add(token)
            tokens.append(token)
            report(len(tokens))
    return Vocabulary((*tokens, END_OF_TEXT.encode()), len(tokens))


class _Merger:
    """The words of a text, cut into tokens, and how often which pair of these occurs."""

    def __init__(self, words: Counter[str]) -> None:
        self._words = [[bytes([byte]) for byte in word.encode()] for word in words]  # in the order of the text
        self._weights = list(words.values())
        self._counts: Counter[Pair] = Counter()
        self._places: defaultdict[Pair, set[int]] = defaultdict(set)
        """Words that have the pair, or once had."""
        for number in range(len(self._words)):
            self._count(number, 1)
        self._heap = [self._candidate(pair) for pair in self._counts]
        heapq.heapify(self._heap)

    def best(self) -> Pair | None:
        """The pair to merge; None where every word is one token.

        A pair loses occurrences when others are merged, and never gains any, so what the heap says of it is at least
        as good as what is true; it is put right when it comes to the top.
        """
        while self._heap:
            candidate = heapq.heappop(self._heap)
            pair = candidate[3]
            if self._counts[pair] <= 0 or len(pair[0]) + len(pair[1]) > MAX_TOKEN_BYTES:
                continue
            now = self._candidate(pair)
            if now == candidate:
                return pair
            heapq.heappush(self._heap, now)
        return None

    def merge(self, pair: Pair) -> None:
        """Make one token of every occurrence of the pair, from the left."""
        token = pair[0] + pair[1]
        fresh: set[Pair] = set()
        for number in self._places.pop(pair):
            self._count(number, -1)
            self._words[number] = _merged(self._words[number], pair, token)
            fresh.update(p for p in self._count(number, 1) if token in p)
        for new in sorted(fresh):
            heapq.heappush(self._heap, self._candidate(new))

    def _count(self, number: int, sign: int) -> list[Pair]:
        """Add the pairs of a word to the counts, or take them away."""
        word = self._words[number]
        pairs = list(pairwise(word))
        for pair in pairs:
            self._counts[pair] += sign * self._weights[number]
            if sign > 0:
                self._places[pair].add(number)
        return pairs

    def _candidate(self, pair: Pair) -> Candidate:
        places = self._places[pair]
        while places:
            number = min(places)
            word = self._words[number]
            at = next((i for i in range(len(word) - 1) if (word[i], word[i + 1]) == pair), None)
            if at is not None:
                return -self._counts[pair], number, at, pair
            places.remove(number)
        return 0, 0, 0, pair


def _merged(word: list[bytes], pair: Pair, token: bytes) -> list[bytes]:
    out, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            out.append(token)
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out
