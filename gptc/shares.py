"""Who has which elements of a tensor that ranks divide among them: equal contiguous shares, the last ones cut short.

The one definition, for the ops of the IR that mean it and for the runtime that exchanges and stores shares.
"""

from __future__ import annotations

LINE = 16
"""Elements: a share of f32 begins at a cache line and fills whole vectors."""


def share(count: int, ranks: int) -> int:
    """Elements of a share, a multiple of LINE: any number of ranks divides any tensor, some ranks may have nothing."""
    return -(-count // (ranks * LINE)) * LINE


def part(count: int, ranks: int, rank: int) -> tuple[int, int]:
    """The elements [start, stop) of a tensor that a rank has."""
    each = share(count, ranks)
    return min(rank * each, count), min((rank + 1) * each, count)
