"""A byte-pair vocabulary as pairs that are merged, which is how Hugging Face and llama.cpp keep it.

tiktoken and gptc keep ranks alone; the pairs follow from them.
"""

from __future__ import annotations

from collections.abc import Mapping


def _alphabet() -> list[str]:
    """A printable character for each byte: itself if it is one, else the next from U+0100 on, as for GPT-2."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


ALPHABET = _alphabet()


def spell(token: bytes) -> str:
    """The token with a printable character for each byte."""
    return "".join(ALPHABET[byte] for byte in token)


def merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The two parts of each token of more than one byte, in the order of ranks."""
    tokens = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    return [pair for token in tokens if (pair := _last_merge(token, ranks))]


def _last_merge(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """What is left before the last merge when only tokens of lower rank are merged; None for a token never made so."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        found = [(ranks.get(parts[i] + parts[i + 1], ranks[token]), i) for i in range(len(parts) - 1)]
        rank, at = min(found)
        if rank >= ranks[token]:
            return None
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]
