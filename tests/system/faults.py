"""Mistakes that a compiler of training steps could make, each planted on purpose.

A graph fault is an edit of one line of the `.gir` text after a pass (a regular expression and what takes its place),
a plan fault moves one value, a source fault is an edit of an emitted file.  Each row says in words what went wrong;
`test_planted_faults` shows that it is caught.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GraphFault:
    """In the graph that pass `after` of `route` leaves, the first line that matches `old` has `new` in its place."""

    what: str
    route: str
    after: str
    old: str
    new: str
    caught_by: str = "interpreter"
    """`interpreter`: outputs or gradients are wrong.  `verifier`: the graph is no valid one."""


@dataclass(frozen=True)
class PlanFault:
    """`value` lies `shift` bytes after the begin of `at` (itself, where that is None)."""

    what: str
    value: str
    at: str | None = None
    shift: int = 0
    caught_by: str = "verifier interpreter"
    """`interpreter`: running out of the planned, poisoned memory gives other bits."""


@dataclass(frozen=True)
class SourceFault:
    """The first of the emitted `files` (a pattern) with `old` in it has `new` there."""

    what: str
    files: str
    old: str
    new: str
    blocks: bool = False
    """Needs sequences of several blocks to show."""


V = r"%[\w.]+"
"""A value in `.gir`."""

GRAPH_FAULTS = (
    # Differentiation.
    GraphFault("operands of a difference swapped", "fused", "differentiate", rf"sub\(({V}), ({V}mean)\)",
               r"sub(\2, \1)"),
    GraphFault("gradient of the residual path dropped", "fused", "differentiate", rf"^(%d.h.1.y:.*)add\({V}, ({V})\)",
               r"\1copy(\2)"),
    GraphFault("gradient counted twice where two meet", "fused", "differentiate", rf"^(%d.h.0.y:.*)add\(({V}), {V}\)",
               r"\1add(\2, \2)"),
    GraphFault("gradient of a tied weight misses its use as a table", "fused", "differentiate",
               rf"^(%d.wte:.*)add\(({V}), {V}\)", r"\1copy(\2)"),
    GraphFault("square weight not transposed in its product's gradient", "fused", "differentiate",
               rf"(matmul\({V}, %h.1.proj.w\).*)trans_b=false", r"\1trans_b=true"),
    GraphFault("factors of a weight's gradient swapped", "fused", "differentiate",
               rf"^(%d.h.1.proj.w:.*)matmul\(({V}), ({V})\)", r"\1matmul(\3, \2)"),
    GraphFault("sum over the wrong axes", "fused", "differentiate", r"^(%d.h.1.proj.b:.*)axes=\[0, 1\]",
               r"\1axes=[1, 2]", "verifier"),
    GraphFault("sum over one axis too few", "fused", "differentiate", r"^(%d.h.1.fc.b:.*)axes=\[0, 1\]", r"\1axes=[0]",
               "verifier"),
    GraphFault("gelu's gradient at the wrong point", "fused", "differentiate", rf"gelu_grad\(({V}), (%h.1.m).add\)",
               r"gelu_grad(\1, \2)"),
    GraphFault("attention's gradient not scaled", "fused", "differentiate", r"(attention_grad.*)scale=0.25",
               r"\1scale=1.0"),
    GraphFault("attention's gradient without the mask", "fused", "differentiate", r"(attention_grad.*)causal=true",
               r"\1causal=false"),
    GraphFault("mean of the loss not in its gradient", "fused", "differentiate", r"value=0.03125", "value=1.0"),
    GraphFault("share of a micro-step not in its gradient", "micro", "differentiate", r"^(%d.loss:.*)value=0.5",
               r"\1value=1.0"),
    GraphFault("padded classes in the gradient of the loss", "fused", "differentiate",
               r"(cross_entropy_grad.*)classes=61", r"\1classes=64"),
    GraphFault("gradients of query and key exchanged", "primitive", "differentiate",
               rf"(%d.h.1.q.add:.*)concat\(({V}), ({V})", r"\1concat(\3, \2"),
    GraphFault("values scattered in place of their gradient", "fused", "differentiate",
               rf"(%d.wpe:.*)scatter_add\(({V}, %positions), {V}\)", r"\1scatter_add(\2, %x.embedding_1)"),
    # Recognition.
    GraphFault("attention without its mask", "fused", "recognise", r"(attention.*)causal=true", r"\1causal=false"),
    GraphFault("attention without its scale", "fused", "recognise", r"(attention.*)scale=0.25", r"\1scale=1.0"),
    GraphFault("attention with query and key exchanged", "fused", "recognise", rf"attention\(({V}), ({V}),",
               r"attention(\2, \1,"),
    GraphFault("padded classes in the loss", "fused", "recognise", "classes=61", "classes=64"),
    # Update.
    GraphFault("weight decay on a bias", "fused", "update", r"^(%h.0.fc.b.new:.*)weight_decay=0.0",
               r"\1weight_decay=0.1"),
    GraphFault("no weight decay on a matrix", "fused", "update", r"^(%h.0.fc.w.new:.*)weight_decay=0.1",
               r"\1weight_decay=0.0"),
    GraphFault("moments exchanged", "fused", "update", r"(adamw\(.*)(%h.0.qkv.w.m), (%h.0.qkv.w.v)", r"\1\3, \2"),
    GraphFault("update with another parameter's gradient", "fused", "update", r"(adamw\(.*)%d.h.1.ln_2.b,",
               r"\1%d.h.1.ln_1.b,"),
    GraphFault("no clipping", "fused", "update", "limit=1.0", "limit=Infinity"),
    GraphFault("norm without one of the gradients", "fused", "update", r"global_norm\(%wte.squares, ", "global_norm("),
    GraphFault("gradients of earlier steps not forgotten", "micro", "update", rf"accumulate\(({V}, {V}), %first\)",
               r"add(\1)"),
    # Layout.
    GraphFault("view begins at the wrong head", "fused", "layout", r"^(%h.1.k:.*)offset=32", r"\1offset=48"),
    GraphFault("view strides exchanged", "fused", "layout", r"^(%h.1.k:.*)\[1536, 16, 96, 1\]", r"\1[1536, 96, 16, 1]",
               "verifier"),
    # Lowering and fusion.
    GraphFault("mask shifted by one", "primitive", "lower", r"t0 = le\(t1, t2\)", "t3 = add(t2, 1); t0 = le(t1, t3)"),
    GraphFault("row sums left out of a softmax's gradient", "primitive", "lower", r"t0 = sub\(dy, t1\)",
               "t0 = copy(dy)"),
    GraphFault("wrong constant in gelu's gradient", "fused", "fuse", r"(d.h.1.m.add:.*)mul\(0.044715, x\)",
               r"\1mul(0.0447, x)"),
    GraphFault("gain and shift of a norm exchanged", "fused", "fuse", r"(%h.1.ln_1.w), (%h.1.ln_1.b)", r"\2, \1"),
    GraphFault("mean and deviation exchanged in a gradient", "fused", "fuse",
               rf"(%d.h.1.y:.*row\(.*)({V}layer_norm.mean), ({V}layer_norm.rstd)", r"\1\3, \2"),
    GraphFault("epilogue adds the wrong residual", "fused", "fuse", r"^(%h.1.y:.*gemm\(.*)%h.0.x\)", r"\1%h.1.a)"),
    GraphFault("bias lost in the epilogue", "fused", "fuse", r"^(%h.1.q.add:.*)add\(acc, b\)", r"\1copy(acc)"),
    GraphFault("gelu lost in the epilogue", "fused", "fuse", r"^(%h.0.m.add:.*)gelu\(y\)", r"\1copy(y)"),
    GraphFault("another epsilon in a norm", "fused", "fuse", "1e-05", "1e-06"),
    GraphFault("sum keeps the wrong axes", "fused", "fuse", "keep=2", "keep=1", "verifier"),
)  # fmt: skip

PLAN_FAULTS = (
    PlanFault("two activations in one place", "h.1.a", at="h.0.a"),
    PlanFault("an activation over half of another", "h.1.q.add", at="h.0.q.add", shift=4096),
    PlanFault("a tensor planned one line too short: its neighbour begins inside it", "x", at="h.0.a", shift=-64),
    PlanFault("result in place of an operand that is read again", "h.0.m.add", at="h.0.q.add"),
    PlanFault("result over an operand of its own kernel, but not element by element", "h.1.x", at="h.1.y", shift=64),
    PlanFault("statistics over the statistics of another layer", "h.1.a.rstd", at="h.0.a.rstd"),
    PlanFault("gradients of two parameters in one place", "d.h.1.fc.b", at="d.h.0.fc.b"),
    PlanFault("misaligned by one element", "x.embedding_1", shift=4, caught_by="verifier"),
    PlanFault("view beside its base", "h.0.k", shift=64),
    PlanFault("new parameter not where the parameter is", "h.0.fc.b.new", at="h.1.fc.b"),
)

SOURCE_FAULTS = (
    # Rows.
    SourceFault("last column left out of a mean", "kernels/row_layer_norm_*", "j < cols; j++)\n            mean_i +=",
                "j < cols - 1; j++)\n            mean_i +="),
    SourceFault("shift of a norm subtracted", "kernels/row_layer_norm_*", "+ b[j]", "- b[j]"),
    SourceFault("variance not divided", "kernels/row_layer_norm_*", "mean2 /= cols", "mean2 /= 1"),
    SourceFault("no maximum subtracted before exp", "kernels/row_cross_entropy_*", "- max)",
                "- 0 * max)"),
    SourceFault("padding counted as a class", "kernels/row_cross_entropy_*", "-INFINITY) -", "0.0f) -"),
    SourceFault("target's share not subtracted", "kernels/row_cross_entropy_*", "target_i ? 1.0f : 0.0f",
                "target_i ? 0.0f : 0.0f"),
    SourceFault("sign of a term of a norm's gradient", "kernels/row_layer_norm_grad_*", "* w[j] - mean_g",
                "* w[j] + mean_g"),
    # Products.
    SourceFault("last term of a product left out", "kernels/gemm_nt_add_*", "gptc_min(from + STEP, kc)",
                "gptc_min(from + STEP, kc - 1)"),
    SourceFault("sums begin with what the scratch held", "kernels/gemm_tn_*", "first ? (vf)",
                "first < 0 ? (vf)"),
    SourceFault("epilogue with the bias of the next column", "kernels/gemm_nt_add_gelu_*", "e->bias[n0 + j]",
                "e->bias[n0 + (j ^ 1)]"),
    SourceFault("epilogue subtracts the bias", "kernels/gemm_nt_add_*", "acc + bias", "acc - bias"),
    SourceFault("tile stored one row too low", "kernels/gemm_nn_*", "(m0 + i) * e->ldc", "(m0 + (i ^ 1)) * e->ldc"),
    # Attention.
    SourceFault("query sees the next key", "kernels/attention_causal_[!g]*", "gptc_min(i, T - 1) + 1 - j0",
                "gptc_min(i + 1, T - 1) + 1 - j0"),
    SourceFault("sum not rescaled to the new maximum", "kernels/attention_causal_[!g]*", "*sum * factor + total",
                "*sum + total", blocks=True),
    SourceFault("output not divided by the sum", "kernels/attention_causal_[!g]*", "/ sum[i];", "/ sum[0];"),
    SourceFault("row sums left out of a softmax's gradient", "kernels/attention_causal_grad_*", "(ds[j] - delta)",
                "(ds[j] - 0 * delta)"),
    SourceFault("gradient of the queries not scaled", "kernels/attention_causal_grad_*",
                "dqueries, width, T, D, scale)", "dqueries, width, T, D, 1)"),
    SourceFault("only the first block of queries reaches a key", "kernels/attention_causal_grad_*",
                "i0 < T; i0 += QUERIES", "i0 <= j0; i0 += QUERIES", blocks=True),
    # Sums and tables.
    SourceFault("last row left out of a column's sum", "kernels/column_sub_*", "i < i1; i++", "i < i1 - 1; i++"),
    SourceFault("only the first chunk of rows is added up", "kernels/column_sub_*",
                "k < items; k++) {\n                y2", "k < 1; k++) {\n                y2", blocks=True),
    SourceFault("repeated tokens overwrite each other", "kernels/scatter_add_*", "to[j] += from[j]", "to[j] = from[j]"),
    SourceFault("row of the next token", "kernels/embedding_*", "ids[i] * cols", "(ids[i] ^ 1) * cols"),
    # Update.
    SourceFault("no bias correction of the first moment", "kernels/adamw_decay_*", "*lr / (1.0 - pow(0.9, *step))",
                "*lr"),
    SourceFault("gradient not squared", "kernels/adamw_decay_*", "keep2 * grad * grad", "keep2 * grad"),
    SourceFault("weight decay dropped", "kernels/adamw_decay_*", "+ decay * p[i]", "+ 0 * decay"),
    SourceFault("gradient not clipped", "kernels/adamw_decay_*", "clip * g[i]", "g[i] + 0 * clip"),
    SourceFault("norm without its last term", "kernels/global_norm_*", "i < n; i++", "i < n - 1; i++"),
    SourceFault("clips what is small", "kernels/map_clip_scale_*", "1.0f < norm_0 ?", "1.0f > norm_0 ?"),
    # Programs.
    SourceFault("call with another layer's bias", "programs/step.c", "params + h_1_fc_b", "params + h_0_fc_b"),
    SourceFault("tensor one line off its place", "programs/step.c", "    h_1_y = ", "    h_1_y = 64 + "),
    SourceFault("program loses its last call", "programs/evaluate.c", "io + loss, 1, 32", "io + loss, 1, 31"),
)  # fmt: skip
