"""Random numbers, equal to PyTorch's on the CPU and so to llm.c's (`llmc/rand.h`, `llmc/sampler.h`).

`Mt19937` draws initial weights and shuffles data; `XorShift` drives sampling.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 16  # `normal_` of PyTorch pairs value t of each block of 16 with value t + 8
CHUNK = 1 << 14  # values transformed at a time: the temporaries stay in the L2 cache
TINY = np.float32(1e-12)  # keeps the logarithm finite
UNIT24 = np.float32(2.0**-24)
UNIT53 = 2.0**-53


class Mt19937:
    """The Mersenne twister, seeded as `torch.manual_seed(seed)` seeds it."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed & 0xFFFFFFFF)  # the legacy seeding is PyTorch's; only 32 bits count

    def randint32(self, n: int) -> NDArray[np.uint32]:
        """The next n raw 32-bit draws."""
        return self._state.randint(0, 1 << 32, size=n, dtype=np.uint32)

    def skip(self, n: int) -> None:
        """Pass over n raw draws."""
        for start in range(0, n, CHUNK):
            self.randint32(min(CHUNK, n - start))

    def uniform(self, n: int) -> NDArray[np.float32]:
        """n values in [0, 1) with 24 random bits each."""
        return (self.randint32(n) & np.uint32(0xFFFFFF)).astype(np.float32) * UNIT24

    def normal(self, n: int, std: float = 1.0, mean: float = 0.0) -> NDArray[np.float32]:
        """n values of N(mean, std^2), in PyTorch's order of draws (Box-Muller on blocks of 16, pairs below 16)."""
        if n < BLOCK:
            return self._normal_small(n, np.float32(std), np.float32(mean))
        out = np.empty(n, np.float32)
        whole = n - n % BLOCK
        for start in range(0, whole, CHUNK):
            stop = min(start + CHUNK, whole)
            _box_muller(self.uniform(stop - start), out[start:stop], np.float32(std), np.float32(mean))
        if n % BLOCK:
            self.randint32(n % BLOCK)  # PyTorch fills the tail with uniforms, then redraws its last 16 values
            _box_muller(self.uniform(BLOCK), out[n - BLOCK :], np.float32(std), np.float32(mean))
        return out

    def _normal_small(self, n: int, std: np.float32, mean: np.float32) -> NDArray[np.float32]:
        pairs = (n + 1) // 2
        words = self.randint32(4 * pairs).astype(np.uint64)
        draws = (words[0::2] << np.uint64(32) | words[1::2]) & np.uint64((1 << 53) - 1)
        u = (draws.astype(np.float64) * UNIT53).astype(np.float32)
        values = _polar(np.float32(1) - u[1::2], u[0::2], std, mean)
        return np.stack(values, axis=-1).reshape(-1)[:n]

    def permutation(self, n: int) -> NDArray[np.int64]:
        """Fisher-Yates over 0..n-1, last element first; uses exactly n - 1 draws."""
        order = list(range(n))
        last = np.arange(n - 1, 0, -1, dtype=np.uint32)
        picks = self.randint32(max(0, n - 1)) % (last + np.uint32(1))
        for i, j in zip(last.tolist(), picks.tolist(), strict=True):
            order[i], order[j] = order[j], order[i]
        return np.array(order, np.int64)


def _box_muller(u: NDArray[np.float32], out: NDArray[np.float32], std: np.float32, mean: np.float32) -> None:
    """Uniforms to normals, block by block of 16: u[t] gives the radius, u[t + 8] the angle."""
    pairs = u.reshape(-1, 2, BLOCK // 2)
    result = out.reshape(-1, 2, BLOCK // 2)
    result[:, 0], result[:, 1] = _polar(np.float32(1) - pairs[:, 0], pairs[:, 1], std, mean)


def _polar(
    u: NDArray[np.float32], turn: NDArray[np.float32], std: np.float32, mean: np.float32
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """radius(u) * (cos, sin)(2 pi turn) * std + mean.

    Values are f32 as in PyTorch; log, cos and sin go through f64, which rounds them correctly on any
    machine, where NumPy's own f32 versions differ by some units in the last place.
    """
    log = np.log((u + TINY).astype(np.float64)).astype(np.float32)
    radius = np.sqrt(np.float32(-2) * log)
    theta = (2.0 * np.pi * turn.astype(np.float64)).astype(np.float32).astype(np.float64)
    cos, sin = np.cos(theta).astype(np.float32), np.sin(theta).astype(np.float32)
    return radius * cos * std + mean, radius * sin * std + mean


class XorShift:
    """xorshift* with 64 bits of state: small, and equal to the sampler of llm.c."""

    MASK = (1 << 64) - 1

    def __init__(self, seed: int) -> None:
        self.state = (seed & self.MASK) or self.MASK  # zero is the one state that never leaves itself

    def randint32(self) -> int:
        s = self.state
        s ^= s >> 12
        s ^= (s << 25) & self.MASK
        s ^= s >> 27
        self.state = s
        return ((s * 0x2545F4914F6CDD1D) & self.MASK) >> 32

    def uniform(self) -> float:
        """In [0, 1) with 24 random bits."""
        return (self.randint32() >> 8) / (1 << 24)
