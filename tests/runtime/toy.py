"""A hand-written artefact: a bigram model, logits[b,t,:] = table[token] + bias, trained with plain SGD.

Small enough to check by hand, yet with everything a real artefact has: padding (V 256 in Vp 320), headers, OpenMP,
accumulation over micro-steps, the hook, and an inference form.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

V, VP = 256, 320

MODEL_H = """
#pragma once
struct gptc_memory { char *params, *state, *io, *arena; };
extern void (*gptc_after)(int call);
enum { B = %(B)d, T = %(T)d, V = 256, VP = 320 };
#define TABLE ((float *)m->params)
#define BIAS ((float *)(m->params + 4 * V * VP))
#define DTABLE ((float *)m->state)
#define DBIAS ((float *)(m->state + 4 * V * VP))
#define LOSS ((float *)m->io)
#define NORM ((float *)(m->io + 64))
#define LR ((float *)(m->io + 128))
#define STEP ((float *)(m->io + 192))
#define FIRST ((float *)(m->io + 256))
#define MAX_LOSS ((float *)(m->io + 320))
#define MAX_NORM ((float *)(m->io + 384))
#define CLIP_SCALE ((float *)(m->io + 448))
#define TOKENS ((int *)(m->io + 512))
#define TARGETS ((int *)(m->io + %(targets)d))
#define LOGITS ((float *)(m->io + %(targets)d))
#define PROBS ((float *)m->arena)
"""

KERNELS_H = """
#include <math.h>
void probs(float *out, const int *tokens, const float *table, const float *bias, int rows, int v, int vp);
void loss(float *out, const float *probs, const int *targets, int rows, int v);
"""

PROBS_C = """
#include "../include/kernels.h"
void probs(float *out, const int *tokens, const float *table, const float *bias, int rows, int v, int vp) {
    #pragma omp parallel for
    for (int r = 0; r < rows; r++) {
        const float *row = table + (long)tokens[r] * vp;
        float sum = 0.0f;
        for (int i = 0; i < v; i++) sum += out[r * v + i] = expf(row[i] + bias[i]);
        for (int i = 0; i < v; i++) out[r * v + i] /= sum;
    }
}
"""

LOSS_C = """
#include "kernels.h"
void loss(float *out, const float *probs, const int *targets, int rows, int v) {
    float sum = 0.0f;
    for (int r = 0; r < rows; r++) sum -= logf(probs[r * v + targets[r]]);
    *out = sum / rows;
}
"""

GRADIENT_C = """
#include "model.h"
#include "kernels.h"
static void forward(const struct gptc_memory *m) {
    probs(PROBS, TOKENS, TABLE, BIAS, B * T, V, VP);
    if (gptc_after) gptc_after(0);
    loss(LOSS, PROBS, TARGETS, B * T, V);
    if (gptc_after) gptc_after(1);
}
static void backward(const struct gptc_memory *m, int clear) {
    if (clear) for (int i = 0; i < V * VP + VP; i++) DTABLE[i] = 0.0f;
    for (int r = 0; r < B * T; r++)
        for (int i = 0; i < V; i++) {
            float d = (PROBS[r * V + i] - (i == TARGETS[r])) / (B * T * MICRO_STEPS);
            DTABLE[TOKENS[r] * VP + i] += d;
            DBIAS[i] += d;
        }
}
static int within(float x, float most) { return isfinite(x) && (most == 0.0f || x <= most); }
static void update(const struct gptc_memory *m, int with_loss) {
    double norm = 0.0;
    for (int i = 0; i < V * VP + VP; i++) norm += (double)DTABLE[i] * DTABLE[i];
    *NORM = (float)sqrt(norm);
    *CLIP_SCALE = within(*NORM, *MAX_NORM) && (!with_loss || within(*LOSS, *MAX_LOSS));
    for (int i = 0; i < V * VP + VP && *CLIP_SCALE; i++) TABLE[i] -= *LR * DTABLE[i];
}
"""

TRAIN_C = {
    "evaluate": '#include "gradient.h"\nvoid gptc_evaluate(const struct gptc_memory *m) { forward(m); }\n',
    "step": '#include "gradient.h"\n'
    "void gptc_step(const struct gptc_memory *m) { forward(m); backward(m, 1); update(m, 1); }\n",
    "micro_step": '#include "gradient.h"\n'
    "void gptc_micro_step(const struct gptc_memory *m) { forward(m); backward(m, *FIRST != 0.0f); }\n",
    "update": '#include "gradient.h"\nvoid gptc_update(const struct gptc_memory *m) { update(m, 0); }\n',
}

LOGITS_C = """
#include "model.h"
void gptc_logits(const struct gptc_memory *m) {
    for (int t = 0; t < T; t++)
        for (int i = 0; i < VP; i++) LOGITS[t * VP + i] = i < V ? TABLE[TOKENS[t] * VP + i] + BIAS[i] : 1e9f;
}
"""

HOOK_C = "void (*gptc_after)(int call);\n"
HOST_C = "const char *gptc_missing(void) { return %s; }\n"
IO = {
    "tokens": "i32",
    "targets": "i32",
    "loss": "f32",
    "norm": "f32",
    "lr": "f32",
    "step": "f32",
    "first": "f32",
    "max_loss": "f32",
    "max_norm": "f32",
    "clip_scale": "f32",
}
OUTPUTS = ("loss", "norm", "clip_scale", "logits")
PORTS = {
    "evaluate": (["tokens", "targets"], ["loss"]),
    "step": (["tokens", "targets", "lr", "max_loss", "max_norm"], ["loss", "norm", "clip_scale"]),
    "micro_step": (["tokens", "targets", "first"], ["loss"]),
    "update": (["lr", "step", "max_norm"], ["norm", "clip_scale"]),
    "logits": (["tokens"], ["logits"]),
}


def write_toy(
    folder: Path, batch: int = 2, seq: int = 8, micro_steps: int = 1, infer: bool = False, missing: str = ""
) -> Path:
    """Write the artefact; for inference with batch 1 and the program `logits`, else for training.

    `missing` names instructions that it says the processor lacks.
    """
    batch = 1 if infer else batch
    programs = ["logits"] if infer else ["evaluate", *(["step"] if micro_steps == 1 else ["micro_step", "update"])]
    targets = 512 + -(-4 * batch * seq // 64) * 64
    sources = {
        "include/model.h": MODEL_H % {"B": batch, "T": seq, "targets": targets},
        "include/kernels.h": KERNELS_H,
        "include/gradient.h": GRADIENT_C.replace("MICRO_STEPS", str(micro_steps)),
        "kernels/probs.c": PROBS_C,
        "kernels/loss.c": LOSS_C,
        "programs/hook.c": HOOK_C,
        "programs/host.c": HOST_C % (f'"{missing}"' if missing else "0"),
        **{f"programs/{name}.c": LOGITS_C if infer else TRAIN_C[name] for name in programs},
    }
    for name, text in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    manifest = _manifest(batch, seq, micro_steps, infer, programs, targets)
    manifest["build"]["units"] = sorted(name for name in sources if name.endswith(".c"))
    manifest["files"] = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sources.items()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "plan.json").write_text(json.dumps({"programs": [_plan(name, batch, seq) for name in programs]}))
    return folder


def _plan(program: str, batch: int, seq: int) -> dict[str, Any]:
    """The calls after which the hook is called, and what they write."""
    spent = {"flops": 1, "bytes": 1, "dtype": "f32", "block": "", "at": ["toy.yaml", 7, 3]}
    values = [("probs", "arena", [batch * seq, V], [V, 1]), ("loss", "io", [], [])]
    return {
        "name": program,
        "kernels": [{"kernel": name, "ops": [name], "writes": [name], **spent} for name, *_ in values],
        "values": [
            {"name": name, "segment": segment, "offset": 0, "bytes": 4 * math.prod(shape), "shape": shape,
             "strides": strides, "dtype": "f32"}
            for name, segment, shape, strides in values
        ],
    }  # fmt: skip


def _manifest(batch: int, seq: int, micro_steps: int, infer: bool, programs: list[str], targets: int) -> dict[str, Any]:
    weights = 4 * (V * VP + VP)
    offsets = {"loss": 0, "norm": 64, "lr": 128, "step": 192, "first": 256, "max_loss": 320, "max_norm": 384}
    offsets |= {"clip_scale": 448, "tokens": 512}
    shapes: dict[str, list[int]] = {"tokens": [batch, seq], "targets": [batch, seq]}
    ports = {"tokens": "i32", "logits": "f32"} if infer else IO
    offsets |= {"logits": targets} if infer else {"targets": targets}
    shapes["logits"] = [batch, seq, VP]
    tensors = [("table", 0, [V, VP], [V, V], 0.02), ("bias", 4 * V * VP, [VP], [V], 0.0)]
    return {
        "format": 1, "gptc": "0.1.0", "model": "toy", "target": "c", "hash": "0" * 16,
        "dims": {"B": batch, "T": seq, "V": V}, "tokenizer": "bytes", "options": {},
        "segments": {"params": weights, "state": weights, "io": targets + 4 * seq * VP, "arena": 4 * batch * seq * V},
        "params": [
            {"name": name, "segment": "params", "offset": offset, "shape": shape, "dtype": "f32", "valid": valid,
             "init": {"kind": "normal", "std": std} if std else {"kind": "zeros"}, "decay": bool(std)}
            for name, offset, shape, valid, std in tensors
        ],
        "state": [
            {"name": f"{name}.g", "segment": "state", "offset": offset, "shape": shape, "dtype": "f32"}
            for name, offset, shape, _, _ in tensors
        ],
        "io": [
            {"name": name, "segment": "io", "offset": offsets[name], "shape": shapes.get(name, []), "dtype": dtype,
             "direction": "out" if name in OUTPUTS else "in"}
            for name, dtype in ports.items()
        ],
        "programs": [
            {"name": name, "function": f"gptc_{name}", "inputs": PORTS[name][0], "outputs": PORTS[name][1], "calls": 2}
            for name in programs
        ],
        "train": {"optimizer": "sgd", "lr": 5.0, "schedule": "constant", "warmup": 0, "final_lr_frac": 0.0},
        "micro_steps": micro_steps,
        "build": {"compiler": "cc", "flags": ["-O1", "-fopenmp", "-Iinclude"], "libs": ["-lm"],
                  "library": "libmodel.so", "units": []},
        "files": {},
    }  # fmt: skip
