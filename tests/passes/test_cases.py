"""Each pass on small graphs: `cases/*.gir` hold passes, input, and after `---` what is expected, remarks included.

`python -m tests.passes.test_cases` writes what the passes now answer; read the difference before you keep it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gptc.ir.interp import interpret
from gptc.ir.text import parse_graph, print_graph
from gptc.passes import PASSES
from gptc.passes.manager import Context, parse_passes, run_pipeline
from tests.passes.gpt2 import agree, feeds

CASES = sorted((Path(__file__).parent / "cases").glob("*.gir"))


def parts(path: Path) -> tuple[str, str]:
    question, _, answer = path.read_text().partition("---\n")
    return question, answer


def answer(question: str, name: str) -> str:
    """The graph that the passes leave, and their remarks."""
    passes = parse_passes(question.splitlines()[0].removeprefix("# passes: "), PASSES)
    context = Context()
    graph = run_pipeline(parse_graph(question, name), passes, context)
    return print_graph(graph) + "".join(f"# {remark}\n" for remark in context.remarks)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_case(path: Path) -> None:
    question, expected = parts(path)
    assert answer(question, path.name) == expected


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_both_graphs_compute_the_same(path: Path) -> None:
    before, after = (parse_graph(text, path.name) for text in parts(path))
    arrays = feeds(before, 0, 3) | feeds(after, 0, 3)
    agree(interpret(before, arrays, wide=True), interpret(after, arrays, wide=True), before)


if __name__ == "__main__":
    for case in CASES:
        text, _ = parts(case)
        case.write_text(f"{text}---\n{answer(text, case.name)}")
