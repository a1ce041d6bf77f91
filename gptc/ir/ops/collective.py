"""What ranks do together: means, sums and shares of tensors.

How many ranks there are is known when a program runs; only the lengths of shares are in the graph.  `together` defines
what every rank of a job gets.  Sums are taken in the order of the ranks, so that all ways to the same sum have the same
bits.  `gptc.shares` says which share is whose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gptc.ir.op import Op, Pairs, Ranks, ShapeError, Types, need, need_count, register
from gptc.ir.ops.optimizer import need_scalars, scalar_like
from gptc.ir.types import Array, DType, TensorType
from gptc.shares import part, share


class Collective(Op):
    """Base of ops whose results depend on what other ranks have, or on which rank computes them."""

    differentiable = False

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        raise NotImplementedError

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        """What the only rank of a job gets."""
        return self.together([operands])[0]

    def flops(self, *operands: TensorType) -> int:
        return sum(x.count for x in operands)


def need_dense(operands: Sequence[TensorType]) -> None:
    """What travels between ranks."""
    for x in operands:
        if x.dtype not in (DType.f32, DType.f64) or x.strides is not None:
            raise ShapeError(f"ranks exchange dense f32, got {x}")


def mean(tensors: Sequence[Array]) -> Array:
    """The mean over ranks: the sum in their order, times the inverse of their number."""
    total = tensors[0].copy()
    for tensor in tensors[1:]:
        total += tensor
    return np.asarray(total * total.dtype.type(1 / len(tensors)))


def own(x: Array, ranks: int, rank: int, length: int = 0) -> Array:
    """A rank's share of a tensor, filled up with zeros to `length`."""
    start, stop = part(x.size, ranks, rank)
    found = np.zeros(length or stop - start, x.dtype)
    found[: stop - start] = x.reshape(-1)[start:stop]
    return found


def need_shares(count: int, ranks: int, length: int) -> None:
    """Shares have the length that the job divides a tensor into; a job of one may have longer ones."""
    if length != share(count, ranks) and not (ranks == 1 and length >= count):
        raise ValueError(f"{ranks} ranks divide {count} elements into shares of {share(count, ranks)}, not {length}")


@register
class AllReduce(Collective):
    """y = the mean of x over the ranks; `bucket` makes the two halves below of it."""

    name = "all_reduce"
    samples = (({}, ("f32[3,5]",)),)

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        (x,) = operands
        need(x.dtype in (DType.f32, DType.f64), f"ranks exchange f32, got {x}")
        return (x.with_shape(x.shape),)

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        found = mean([x for (x,) in ranks])
        return [(found.copy(),) for _ in ranks]


class Half(Collective):
    """Base of the halves of an exchange: as many results as operands, each in place of its operand."""

    tensors: int = 1

    @property
    def in_place(self) -> Pairs:  # type: ignore[override]
        return tuple((i, i) for i in range(self.tensors))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, self.tensors)
        need_dense(operands)
        return operands


@register
class AllReduceBegin(Half):
    """Hand tensors to the exchange, which owns them until `all_reduce_end`."""

    name = "all_reduce_begin"
    kernel = "all_reduce_begin"
    tensors: int = 1
    samples = (({}, ("f32[3,5]",)), ({"tensors": 3}, ("f32[7]", "f32[2,3]", "f32[1]")))

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        found = [mean(tensors) for tensors in zip(*ranks, strict=True)]
        return [tuple(x.copy() for x in found) for _ in ranks]


@register
class AllReduceEnd(Half):
    """Wait for the means of the tensors of one `all_reduce_begin`, in the same order."""

    name = "all_reduce_end"
    kernel = "all_reduce_end"
    lazy = True
    tensors: int = 1
    samples = (({}, ("f32[3,5]",)), ({"tensors": 3}, ("f32[7]", "f32[2,3]", "f32[1]")))

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        return [tuple(x.copy() for x in operands) for operands in ranks]


@register
class ReduceScatter(Collective):
    """y = this rank's share of the mean of x over the ranks, then zeros; `bucket` makes the two halves below of it."""

    name = "reduce_scatter"
    share: int = 16
    samples = (({}, ("f32[3,5]",)),)

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        need(operands[0].dtype in (DType.f32, DType.f64), f"ranks exchange f32, got {operands[0]}")
        return (operands[0].with_shape((self.share,)),)

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        return [(y,) for y in scattered([x for (x,) in ranks], self.share)]


def scattered(tensors: Sequence[Array], length: int) -> list[Array]:
    """What each rank gets of the mean of the tensors that they have."""
    need_shares(tensors[0].size, len(tensors), length)
    found = mean(tensors)
    return [own(found, len(tensors), rank, length) for rank in range(len(tensors))]


@register
class ReduceScatterBegin(Collective):
    """Lend tensors to the exchange: nobody may change them, or read the shares that they become, until
    `reduce_scatter_end`."""

    name = "reduce_scatter_begin"
    kernel = "reduce_scatter_begin"
    shares: tuple[int, ...] = (16,)
    """The length of each tensor's."""
    samples = (({}, ("f32[3,5]",)), ({"shares": (16, 16, 32)}, ("f32[7]", "f32[2,3]", "f32[31]")))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, len(self.shares))
        need_dense(operands)
        return tuple(x.with_shape((n,)) for x, n in zip(operands, self.shares, strict=True))

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        each = [scattered(x, n) for x, n in zip(zip(*ranks, strict=True), self.shares, strict=True)]
        return list(zip(*each, strict=True))


@register
class ReduceScatterEnd(Collective):
    """Wait for the shares that one `reduce_scatter_begin` promised.  Operands: those, then the tensors lent to it."""

    name = "reduce_scatter_end"
    kernel = "reduce_scatter_end"
    lazy = True
    tensors: int = 1
    samples = (({}, ("f32[16]", "f32[3,5]")), ({"tensors": 2}, ("f32[16]", "f32[32]", "f32[7]", "f32[31]")))

    @property
    def in_place(self) -> Pairs:  # type: ignore[override]
        return tuple((i, i) for i in range(self.tensors))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 2 * self.tensors)
        need_dense(operands)
        return operands[: self.tensors]

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        return [tuple(x.copy() for x in operands[: self.tensors]) for operands in ranks]


@register
class AllGather(Collective):
    """Tensors put together from the shares of all ranks.  Operands: own shares, then the tensors that these replace."""

    name = "all_gather"
    kernel = "all_gather"
    tensors: int = 1
    samples = (({}, ("f32[16]", "f32[3,5]")), ({"tensors": 2}, ("f32[16]", "f32[32]", "f32[7]", "f32[31]")))

    @property
    def in_place(self) -> Pairs:  # type: ignore[override]
        return tuple((i, self.tensors + i) for i in range(self.tensors))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 2 * self.tensors)
        need_dense(operands)
        for x in operands[: self.tensors]:
            need(x.rank == 1, f"a share is a vector, got {x}")
        return operands[self.tensors :]

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        found = [self.gathered(ranks, i) for i in range(self.tensors)]
        return [tuple(y.copy() for y in found) for _ in ranks]

    def gathered(self, ranks: Ranks, index: int) -> Array:
        """Tensor number `index`."""
        like = ranks[0][self.tensors + index]
        need_shares(like.size, len(ranks), ranks[0][index].size)
        return np.asarray(np.concatenate([operands[index] for operands in ranks])[: like.size].reshape(like.shape))


@register
class OwnShare(Collective):
    """y = this rank's share of x, then zeros."""

    name = "own_share"
    kernel = "own_share"
    share: int = 16
    samples = (({}, ("f32[3,5]",)), ({"share": 1008}, ("f32[1000]",)))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        return (operands[0].with_shape((self.share,)),)

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        need_shares(ranks[0][0].size, len(ranks), self.share)
        return [(own(x, len(ranks), rank, self.share),) for rank, (x,) in enumerate(ranks)]


@register
class OwnSquares(Collective):
    """sum x^2 over this rank's share of a tensor, accumulated in f64: x is the tensor or, where it has `of` elements
    in all, the share."""

    name = "own_squares"
    kernel = "own_squares"
    of: int = 0
    samples = (({}, ("f32[3,5]",)), ({}, ("f32[1000]",)), ({"of": 1000}, ("f32[1008]",)))

    def infer(self, *operands: TensorType) -> Types:
        need_count(operands, 1)
        return (scalar_like(operands[0]),)

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        return [(self.squares(x, len(ranks), rank),) for rank, (x,) in enumerate(ranks)]

    def squares(self, x: Array, ranks: int, rank: int) -> Array:
        """Those of one rank."""
        start, stop = part(self.of, ranks, rank)
        mine = x.reshape(-1)[: stop - start] if self.of else own(x, ranks, rank)
        return np.asarray(np.sum(np.square(mine, dtype=np.float64)), np.result_type(np.float32, x.dtype))

    def flops(self, *operands: TensorType) -> int:
        return 2 * operands[0].count


@register
class NormOverRanks(Collective):
    """sqrt of the sum over all ranks of any number of `own_squares`: the L2 norm of all gradients together."""

    name = "norm_over_ranks"
    kernel = "norm_over_ranks"
    samples = (({}, ("f32[]",)), ({}, ("f32[]", "f32[]", "f32[]")))

    def infer(self, *operands: TensorType) -> Types:
        need_scalars(operands)
        return (scalar_like(operands[0]),)

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        total = sum(sum(float(x) for x in operands) for operands in ranks)
        return [(np.asarray(np.sqrt(total), operands[0].dtype),) for operands in ranks]
