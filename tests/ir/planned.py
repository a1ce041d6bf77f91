"""A small training step, and plans for it made by hand."""

from __future__ import annotations

from dataclasses import replace

from gptc.ir.analysis import ARENA, intervals, roots, segments
from gptc.ir.body import body
from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Placement
from gptc.ir.ops.leaf import Buffer, Input
from gptc.ir.ops.region import ITSELF, Column, Gemm, Map
from gptc.ir.ops.shape import View


def fused_step() -> Graph:
    """One step of least squares, y = x w^T: loss, gradient, update, each node a kernel.

    error = x w^T - target;  scaled = 2 error / count;  dw = scaled^T x;  w, m, v updated in place.
    """
    b = Builder("step")
    x = b.input(label="x", key="x", shape=(2, 6, 16))
    target = b.input(label="target", key="target", shape=(12, 16))
    w = b.buffer(label="w", key="w", shape=(16, 16))
    m = b.buffer(label="m", key="w.m", role="state", shape=(16, 16))
    v = b.buffer(label="v", key="w.v", role="state", shape=(16, 16))
    lr, step, one = (b.input(label=key, key=key) for key in ("lr", "step", "one"))
    (rows,) = b.apply(View(shape=(12, 16), strides=(16, 1)), (x,), "rows")
    residual = Gemm(body=body("acc t", "e", "e = acc - t"), dtypes=("f32",), trans_b=True)
    (error,) = b.apply(residual, (rows, w, target), "error")
    (loss,) = b.apply(Column(body=body("e", "s", "s = e * e"), dtypes=("f32",), keep=0), (error,), "loss")
    (scaled,) = b.apply(Map(body=body("e", "d", "d = e / 96"), dtypes=("f32",)), (error,), "scaled")
    (dw,) = b.apply(Gemm(body=ITSELF, dtypes=("f32",), trans_a=True), (scaled, rows), "dw")
    new = b.adamw(w, dw, m, v, lr, step, one, label="new")
    for name, value in zip(("loss", "w", "w.m", "w.v"), (loss, *new), strict=True):
        b.output(name, value)
    return b.build("scheduled")


def aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64


def by_hand(graph: Graph, **arena: int) -> Graph:
    """Buffers, inputs and outputs one after another; arena values where the caller says."""
    root, segment = roots(graph), segments(graph)
    homes = {n.name: n.op.key for n in graph.nodes if isinstance(n.op, (Input, Buffer))}
    homes |= {o.value.name: o.name for o in graph.outputs}
    ends = {"params": 0, "state": 0, "io": 0}
    known: dict[str, Placement] = {}
    plan: dict[str, Placement] = {}
    for item in intervals(graph):
        name = item.value.name
        if segment[name] == ARENA:
            plan[name] = Placement(ARENA, arena[name])
            continue
        key = homes[name]
        if key not in known:
            known[key] = Placement(segment[name], ends[segment[name]])
            ends[segment[name]] += aligned(item.nbytes)
        plan[name] = known[key]
    for node in graph.nodes:
        if isinstance(node.op, View):
            base = plan[root[node.name]]
            plan[node.name] = replace(base, offset=base.offset + 4 * node.op.offset)
    return replace(graph, plan=plan, stage="planned")
