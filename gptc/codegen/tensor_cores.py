"""Which kernel multiplies bf16 or f16 on a GPU, and how its work is cut.

Hopper's kernels (`matmul_sm90`, `attention_sm90`) read rows that begin at multiples of 16 bytes; those of the floor,
sm_80, take any matrix but the same heads; what both refuse is computed on the ordinary units.  The numbers were
measured on an H200 with the shapes of GPT-2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil

from gptc.ir.graph import Placement, Value
from gptc.ir.types import DType

HOPPER = "sm_90a"
PROCESSORS = 132
"""Multiprocessors of an H100 or H200 (SXM): how a sum over k is cut must not depend on the device that runs it."""
SHARED_BYTES = 232_448
"""Shared memory of a block on Hopper."""
CACHED_BYTES = 12 << 20
"""Rows of A that stay in the L2 cache while B passes by."""
UNIT_STEPS = 20
"""What beginning and ending a unit of work costs, in steps of 64 along k."""
LONGEST_BLOCK = 64
"""Most queries that a block of the gradient of attention meets at a time."""
COLUMN_COST = {192: 1.0, 128: 1.1}
"""Width of a tile -> time of a column: a narrow tile reads its rows for fewer columns."""
PACKET = 8
"""Elements of 16 bits in the 16 bytes that copies move."""

Plan = Mapping[str, Placement]
"""Where values lie; one without a place begins a storage of its own, which is aligned."""


@dataclass(frozen=True)
class Choice:
    """A template, what it is made for, and why it is not a faster one."""

    template: str
    params: Mapping[str, object]
    note: str = ""


@dataclass(frozen=True)
class Tiling:
    """How `matmul_sm90` cuts a product: tiles of 128 rows."""

    width: int
    """Columns of a tile."""
    blocks: int
    """Blocks of 64 rows that a group of four warps multiplies."""
    stages: int
    pingpong: bool
    """Whether groups take turns at tiles, or share them."""
    split: bool
    """Whether a sum over k may be cut into parts."""

    def params(self) -> dict[str, object]:
        """The template's words."""
        return {
            "BN": self.width, "BLOCKS": self.blocks, "STAGES": self.stages, "pingpong": self.pingpong,
            "split": self.split,
        }  # fmt: skip


PARTS = Tiling(192, 1, 5, pingpong=False, split=True)
"""For the gradient of a weight, where there are too few tiles for all multiprocessors."""
FEWEST_STAGES = 3


@dataclass(frozen=True)
class Matmul:
    """What choosing needs to know of one product: C[M, N] = op(a) op(b), sums over K."""

    m: int
    n: int
    k: int
    trans_a: bool
    trans_b: bool
    rows: tuple[int, ...]
    """Elements from row to row of a, b and c."""
    apart: tuple[int, ...]
    """Elements between the products of a batch; empty when there is one."""
    staged: int
    """Results of 16 bits."""
    fetched: int
    """Inputs like C of 16 bits."""
    aligned: bool
    """Whether all matrices begin at multiples of 16 bytes."""

    def choose(self, march: str) -> Choice:
        """`matmul_sm90` where it can, else `matmul`."""
        why = self._refused(march)
        if not why:
            if tiling := self._hopper():
                return Choice("matmul_sm90", tiling.params() | {"fetch": self.fetched > 0})
            why = "its inputs and results do not fit in shared memory"
        packed = self.aligned and all(x % PACKET == 0 for x in (*self.rows, *self.apart))
        note = "" if packed else "elements are loaded one at a time: rows do not begin at multiples of 16 bytes"
        params = {"BM": 128, "BN": 128, "ROWS": 4, "COLUMNS": 2, "STAGES": 3, "aligned": packed}
        return Choice("matmul", params, note or (f"not matmul_sm90: {why}" if march == HOPPER else ""))

    def _refused(self, march: str) -> str:
        """Why Hopper's kernel cannot serve; empty when it may."""
        if march != HOPPER:
            return f"the code is for {march}"
        if self.apart:
            return "a batch of products"
        if not self.aligned or any(x % PACKET for x in (self.n, *self.rows)):
            return "rows do not begin at multiples of 16 bytes"
        return ""

    def _hopper(self) -> Tiling | None:
        """Tiles, and as many stages as fit; None when too few do."""
        width = min(COLUMN_COST, key=lambda w: ceil(self.n / w) * w * COLUMN_COST[w])
        options = [Tiling(width, 2, 5, pingpong=True, split=False)]
        if self.trans_a and not self.trans_b:  # few tiles, long sums: the gradient of a weight
            options = sorted((*options, PARTS), key=self._time)
        for option in options:
            for stages in range(option.stages, FEWEST_STAGES - 1, -1):
                if self._shared(option.width, stages) <= SHARED_BYTES:
                    return replace(option, stages=stages)
        return None

    def _shared(self, width: int, stages: int) -> int:
        """Bytes of shared memory of a block."""
        staging = self.staged if self.fetched else 2 * self.staged
        return 1024 + stages * ((128 + width) * 128 + 16) + 16384 * (staging + width // 64 * self.fetched)

    def _time(self, option: Tiling) -> float:
        """Steps that the busiest multiprocessor takes, in columns."""
        parts = self.parts(option.width) if option.split else 1
        units = ceil(self.m / 128) * ceil(self.n / option.width) * parts
        return ceil(units / PROCESSORS) * (ceil(self.k / 64) / parts + UNIT_STEPS) * option.width

    def parts(self, width: int) -> int:
        """Into how many parts a sum over k is cut, so that all multiprocessors are busy to the end."""
        tiles, steps = ceil(self.m / 128) * ceil(self.n / width), ceil(self.k / 64)
        return min(
            range(1, min(16, steps) + 1),
            key=lambda s: ceil(tiles * s / PROCESSORS) * (steps / s + UNIT_STEPS),
        )

    def split(self, choice: Choice) -> tuple[int, int]:
        """Into how many parts the sums of a choice are cut, and bytes of memory for the sums of parts."""
        width = choice.params["BN"]
        assert isinstance(width, int)
        parts = self.parts(width) if choice.params["split"] else 1
        return parts, 4 * parts * ceil(self.m / 128) * 128 * ceil(self.n / width) * width

    def sweep(self, choice: Choice) -> int:
        """Rows of tiles of 128 rows that are gone through together.

        Where not even one stays in the cache, multiprocessors read what they share at the same time, if at all: then
        neighbours go along the shorter side, and share the longer rows or columns among fewer.
        """
        width = choice.params["BN"]
        assert isinstance(width, int)
        rows, columns = ceil(self.m / 128), ceil(self.n / width)
        return CACHED_BYTES // (256 * self.k) or (rows if rows < columns else 1)


def begin_aligned(values: Iterable[Value], plan: Plan) -> bool:
    """Whether all values begin at multiples of 16 bytes."""
    return all(plan[v.name].offset % 16 == 0 for v in values if v.name in plan)


def choose_attention(kernel: str, size: int, dtype: DType, aligned: bool, march: str) -> Choice:
    """`attention` or `attention_grad` for heads of `size` elements."""
    if dtype is DType.f32:
        return Choice(f"{kernel}_f32", {"ctype": "float"})
    if size % 16 or size > 128 or not aligned:
        why = f"heads of {size} elements" if aligned else "heads that do not begin at multiples of 16 bytes"
        return Choice(f"{kernel}_f32", {"ctype": str(dtype)}, f"computed without tensor cores: they do not take {why}")
    wide = size > 64
    if march != HOPPER:
        blocks = {"KEYS": 32, "QUERIES": 32} if wide else {"KEYS": 64, "QUERIES": 64}
        blocks = blocks if kernel == "attention_grad" else {"KEYS": 64}
        return Choice(kernel, {"dtype": str(dtype), "WARPS": 4, **blocks})
    return Choice(f"{kernel}_sm90", {"dtype": str(dtype)} | ATTENTION_SM90[kernel, wide])


ATTENTION_SM90: dict[tuple[str, bool], dict[str, object]] = {
    ("attention", False): {"GROUPS": 4, "KEYS": 64, "STAGES": 4, "QUERY_STAGES": 2, "LAZY": True},
    ("attention", True): {"GROUPS": 2, "KEYS": 64, "STAGES": 4, "QUERY_STAGES": 2, "LAZY": False},
    ("attention_grad", False): {
        "GROUPS": 2, "KEYS": 128, "STAGES": 4, "QUERY_STAGES": 8, "TILE_STAGES": 2, "REGISTERS": True,
    },
    ("attention_grad", True): {
        "GROUPS": 2, "KEYS": 64, "STAGES": 4, "QUERY_STAGES": 4, "TILE_STAGES": 1, "REGISTERS": False,
    },
}  # fmt: skip
"""Kernel, heads of more than 64 elements -> the fastest settings."""
