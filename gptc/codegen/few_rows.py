"""Kernels of generation on a GPU: products of a few rows, and attention over caches.

They read each weight once and take microseconds, as long as a kernel takes to begin and to end.  So from sm_90 on each
begins while the one before it ends (`overlap`), and asks for what no kernel of the program writes before it waits
for that (`early`).  The numbers were measured on an H200 with the shapes of GPT-2.
"""

from __future__ import annotations

from gptc.codegen.kernel import ceil_div
from gptc.codegen.tensor_cores import PROCESSORS, Plan
from gptc.codegen.vectors import ACCESS
from gptc.ir.graph import Value
from gptc.ir.types import DType

FEW_ROWS = 64
"""Most rows of a product, or of a norm, that counts as one of a few."""
TALL = 16
"""Rows of a tile of the tensor cores."""
TILE = 192
"""Columns of a tile of `matmul_sm90`."""
FEW_FLOATS = 8
"""Most rows where the ordinary units multiply."""
STEP = {DType.f32: 128, DType.bf16: 32, DType.f16: 32}
"""Elements of a row that a warp multiplies at a time."""
LARGEST_CLUSTER = 8
"""Blocks that every device can have in a cluster."""
CHUNK = 512
"""Fewest rows of a cache for which a block is worth its beginning and end."""
CHUNKS = 8
"""Most that a block joins, a warp each."""
LARGEST_HEAD = 256
"""Elements of a head whose chunks are joined, a thread each."""
FILLING = 2 * PROCESSORS
"""Blocks that fill a GPU."""


def most_rows(n: int, dtype: DType) -> int:
    """Up to how many rows a product with `n` columns is one of a few."""
    if dtype is DType.f32:
        return FEW_FLOATS
    return FEW_ROWS if n < TILE * PROCESSORS else TALL  # tiles for all multiprocessors: those read A less often


def is_param(value: Value, plan: Plan) -> bool:
    """Whether it is a parameter, which programs write only after they have read it."""
    return value.name in plan and plan[value.name].segment == "params"


def is_input(value: Value, plan: Plan) -> bool:
    """Whether it is an input of the program, in whole numbers, which no program writes."""
    return value.name in plan and plan[value.name].segment == "io" and not value.type.dtype.is_float


def cut_product(m: int, n: int, k: int, dtype: DType, clusters: bool) -> dict[str, int]:
    """How `gemv` or `gemv_f32` cuts a product; `clusters`: whether blocks can share their sums."""
    steps = ceil_div(k, STEP[dtype])
    if dtype is DType.f32:
        return {"DEPTH": min(6, steps)}
    if m > TALL:  # a block reads all of A for its columns, so that these should be many
        columns, warps = 32, 8
        blocks = ceil_div(n, columns)
        splits = max(1, min(LARGEST_CLUSTER, PROCESSORS // blocks, steps // warps)) if clusters else 1
        rounds = ceil_div(steps, warps * splits)
        splits = ceil_div(steps, warps * rounds)  # as few as take as many rounds
        return {"COLUMNS": columns, "WARPS": warps, "SPLITS": splits, "DEPTH": min(3, rounds), "BLOCKS": 1}
    columns = 32 if n >= 32 * FILLING else 8
    warps = 16 if steps > 48 else 8
    depth = min(6 if columns == 8 else 2, ceil_div(steps, warps))
    blocks = 1 if warps == 16 else 3 if columns == 8 else 2
    return {"COLUMNS": columns, "WARPS": warps, "SPLITS": 1, "DEPTH": depth, "BLOCKS": blocks}


def cut_head(size: int, dtype: DType, aligned: bool) -> dict[str, int]:
    """How lanes share a row of a cache: 16 bytes each, where rows are made of such pieces."""
    vector = ACCESS // dtype.size
    if size % vector or not aligned:
        vector = 1
    lanes = 1
    while lanes < min(32, ceil_div(size, vector)):
        lanes *= 2
    return {"D": size, "VEC": vector, "LANES": lanes}


def chunk_of(queries: int, length: int, size: int) -> int:
    """Rows of a cache that a block goes through: all of them, unless queries are too few to fill the GPU."""
    if queries >= FILLING or length <= CHUNK or size > LARGEST_HEAD:
        return length
    return max(CHUNK, ceil_div(length, CHUNKS))
