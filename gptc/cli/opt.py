"""`gptc opt`: run passes on a graph in its text form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptc.cli.flags import Json


def opt(
    file: Annotated[Path, typer.Argument(help="A .gir file; - reads standard input.", show_default=False)],
    passes: Annotated[str, typer.Option(help="Passes to run, as 'simplify,update{clip=1.0}'.")] = "",
    stop_after: Annotated[str | None, typer.Option(help="The last pass to run.")] = None,
    dump: Annotated[Path | None, typer.Option(help="Folder for the graph after each pass, and what changed.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the result (default: standard output).")] = None,
    json: Json = False,
) -> None:
    """Run passes on the graphs of a .gir file and print what they leave."""
    import sys
    from dataclasses import asdict

    from gptc.cli.output import Output
    from gptc.errors import InputError
    from gptc.ir.text import parse_graphs, print_graphs
    from gptc.ir.verify import verify
    from gptc.passes import PASSES
    from gptc.passes.manager import Context, parse_passes, run_pipeline
    from gptc.runtime.atomic import replacing

    try:
        text = (sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()).decode()
    except FileNotFoundError:
        raise InputError.of(f"{file}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError.of(f"{file}: byte {error.start} is not UTF-8; expected graphs in their text form") from None
    context = Context()
    chosen = parse_passes(passes, PASSES)
    graphs = []
    for number, graph in enumerate(parse_graphs(text, str(file))):
        verify(graph, graph.stage)
        folder = dump / f"{number:02d}-{graph.name}" if dump else None
        graphs.append(run_pipeline(graph, chosen, context, dump=folder, stop_after=stop_after))
    result = print_graphs(graphs)
    if out:
        with replacing(out) as temporary:
            temporary.write_text(result, encoding="utf-8")
    elif not json:
        print(result, end="")
    graph_text = {} if out else {"gir": result}
    Output(json).result(
        {"passes": [asdict(t) for t in context.timings], "remarks": [*map(str, context.remarks)], **graph_text}
    )
