"""Damage to the bytes of a file: what disks, networks and editors do, and what attackers do."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

NUMBERS = (0, 1, 2, 4, 255, 256, 65535, 65536, 50257, 2**31 - 1, 2**31, 2**32 - 1, 20240520, 20240522, 20240328)
WORDS = (
    b"-1", b"1e999", b"9" * 30, b'"', b"null", b"NaN", b"[" * 4000, b'":[', b"{}}", b"\\ud800", b"0.5", b"\xff" * 8,
)  # fmt: skip
ODD: tuple[object, ...] = (None, -1, 0, 1 << 62, 1 << 70, 0.5, "", "x\0", [], {}, True, [[]], "../../etc/passwd")


def mutant(data: bytes, rng: random.Random) -> bytes:
    """One to four changes, half of them near the beginning, where structure is."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        near = rng.choice((40, 1100, 4096))
        at = rng.randrange(len(out) + 1) if rng.random() < 0.5 else rng.randrange(min(len(out), near) + 1)
        length = rng.choice((1, 2, 3, 4, 16, 200, len(out)))
        match rng.randrange(10):
            case 0:
                out[at : at + 1] = bytes(byte ^ (1 << rng.randrange(8)) for byte in out[at : at + 1])
            case 1:
                out[at : at + length] = rng.randbytes(len(out[at : at + length]))
            case 2:
                del out[at:]
            case 3:
                del out[at : at + length]
            case 4:
                out[at:at] = rng.randbytes(min(length, 200))
            case 5:
                out[at:at] = out[at : at + min(length, 2000)]
            case 6:
                other = rng.randrange(len(out) + 1)
                out[at : at + 16] = out[other : other + 16]
            case 7:
                size = rng.choice((2, 4, 8))
                number = rng.choice(NUMBERS) % (1 << 8 * size)
                out[at - at % size : at - at % size + size] = number.to_bytes(size, "little")
            case 8:
                out[at : at + length] = bytes([rng.choice((0, 255, 32, 10, 123, 91, 34))]) * len(out[at : at + length])
            case _:
                word = rng.choice(WORDS)
                out[at : at + len(word)] = word
    return bytes(out)


def mutant_json(data: bytes, rng: random.Random) -> bytes:
    """The same, or sound JSON in which one value is an odd one."""
    if rng.random() < 0.5:
        return mutant(data, rng)
    tree = json.loads(data)
    _replace_one(tree, rng)
    return json.dumps(tree).encode()


def resealed(data: bytes, seal: Callable[[dict[str, Any]], bytes]) -> bytes:
    """A JSON object whose own hash `seal` has made right, so that what it says must be judged; else as it is."""
    try:
        return seal(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return data


def _replace_one(tree: Any, rng: random.Random) -> None:
    """Descend at random and put an odd value somewhere."""
    keys = sorted(tree) if isinstance(tree, dict) else range(len(tree))
    key = rng.choice(list(keys))
    if isinstance(tree[key], dict | list) and tree[key] and rng.random() < 0.8:
        _replace_one(tree[key], rng)
    else:
        tree[key] = rng.choice(ODD)
