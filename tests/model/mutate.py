"""Seeded mutants of model files: damaged text, and damaged models whose YAML is sound."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

NAMES = """
    x y a q k v p m h wte wpe ln_1 ln_1.w qkv.b fc.w h.w tokens targets positions logits loss V T L H C D B
"""
NUMBERS = " 0 1 2 3 7 64 0.5 .5 1e-3 1e9 2147483648 18446744073709551616"
FUNCTIONS = """
    embedding linear layer_norm rms_norm gelu relu silu sigmoid tanh exp matmul matmul_nt causal_mask softmax attention
    heads merge_heads split concat reshape transpose cross_entropy sqrt normal uniform constant
"""
OTHERS = """
    .nan .inf null true {} [] repeat shape init pad decay zeros ones model dims params graph train axis=0 axis=9 eps=0
    classes=0 eps=x ( ) , : - + * / ** ' " & *a &a !!int ! | > # % @ ? . ... --- << _ __x int while É \U0001f600 x.y
"""
WORDS = (NAMES + NUMBERS + FUNCTIONS + OTHERS).split()
TOKEN = re.compile(r"\w+(?:\.\w+)*|[^\w\s]")


def mutants(text: str, seed: int, count: int) -> Iterator[str]:
    """`count` variants of `text`, one to four changes away; every second one is sound YAML."""
    rng = random.Random(seed)
    for index in range(count):
        mutant = text
        for _ in range(rng.randint(1, 4)):
            change = rng.choice((change_expression, rewrite_statement)) if index % 2 else rng.choice(CHANGES)
            mutant = change(mutant, rng)
        yield mutant


def replace_token(text: str, rng: random.Random) -> str:
    token = rng.choice(list(TOKEN.finditer(text)) or [re.match("", text)])
    return text[: token.start()] + rng.choice(WORDS) + text[token.end() :]


def swap_tokens(text: str, rng: random.Random) -> str:
    tokens = list(TOKEN.finditer(text))
    if len(tokens) < 2:
        return text
    left, right = sorted(rng.sample(tokens, 2), key=lambda t: t.start())
    return text[: left.start()] + right[0] + text[left.end() : right.start()] + left[0] + text[right.end() :]


def insert_word(text: str, rng: random.Random) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice((" ", "")) + rng.choice(WORDS) + rng.choice((" ", "")) + text[at:]


def change_character(text: str, rng: random.Random) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + chr(rng.choice((rng.randint(0, 127), rng.randint(0, 0x2FFF)))) + text[at + 1 :]


def change_lines(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    return "\n".join(
        rng.choice(
            (
                lines[:at] + lines[at + 1 :],
                [*lines[:at], lines[other], *lines[at:]],
                [*lines[:at], lines[other], *lines[at + 1 :]],
                [*lines[:at], "  " + lines[at], *lines[at + 1 :]],
                [*lines[:at], lines[at].removeprefix("  "), *lines[at + 1 :]],
            )
        )
    )


def cut(text: str, rng: random.Random) -> str:
    at = rng.randint(0, len(text))
    return text[:at] if rng.random() < 0.3 else text[:at] + text[at + rng.randint(0, 40) :]


def change_expression(text: str, rng: random.Random) -> str:
    """Replace one word of one statement or declaration by a word that leaves the YAML sound."""
    words = [t for t in TOKEN.finditer(text) if t[0][0].isalnum() and text[t.end() : t.end() + 1] != ":"]
    if not words:
        return text
    word = rng.choice(words)
    sound = [w for w in WORDS if w[0].isalnum()]
    spelled = rng.choice(
        ("{}", "{}", "{}", "-{}", "({})", "{} + {}", "{} * {}", "{} ** {}", "gelu({})", "split({}, 2)")
    )
    return text[: word.start()] + spelled.format(rng.choice(sound), rng.choice((*sound, word[0]))) + text[word.end() :]


def rewrite_statement(text: str, rng: random.Random) -> str:
    """Another right-hand side for one statement."""
    head, graph, body = text.partition("graph:")
    lines = body.split("\n")
    statements = [i for i, line in enumerate(lines) if re.match(r" +[\w, ]+: \S", line)]
    if not statements:
        return text
    at = rng.choice(statements)
    lines[at] = f"{lines[at].partition(':')[0]}: {expression(rng, 3)}"
    return head + graph + "\n".join(lines)


def expression(rng: random.Random, depth: int) -> str:
    """A random sentence of the grammar, often a wrong one."""
    kind = rng.random() if depth else 0
    if kind < 0.3:
        return _word(rng, NAMES if rng.random() < 0.7 else NUMBERS)
    if kind < 0.5:
        return f"({expression(rng, depth - 1)} {rng.choice(('+', '-', '*', '/', '**'))} {expression(rng, depth - 1)})"
    args = [expression(rng, depth - 1) for _ in range(rng.randint(1, 4))]
    args += [f"{key}={_word(rng, NUMBERS)}" for key in ("axis", "eps", "classes") if rng.random() < 0.1]
    return f"{_word(rng, FUNCTIONS)}({', '.join(args)})"


def _word(rng: random.Random, words: str) -> str:
    return rng.choice(words.split())


CHANGES = (replace_token, replace_token, replace_token, swap_tokens, insert_word, change_character, change_lines, cut)
