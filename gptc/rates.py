"""The constants of every optimizer, and their defaults.

The one table, for the model language, the pass `update` and the ops that it makes.
"""

from __future__ import annotations

RATES = {
    "adamw": {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1},
    "adam": {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    "sgd": {"momentum": 0.9, "weight_decay": 0.0},
    "lion": {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1},
    "tiger": {"beta1": 0.96875},
}
"""Optimizer -> constant -> default: those of llm.c, HPC-GPT2, PyTorch, the paper, wyGPT."""
