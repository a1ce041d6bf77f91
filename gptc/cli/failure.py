"""From an exception to a message and an exit code.  No traceback for anything that a user can cause."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import typer

from gptc.errors import Diagnostic, GptcError, InternalError, StorageError

INTERRUPTED = 130


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, ending in an exit code whatever happens."""

    @functools.wraps(command)
    def run(*args: Any, **flags: Any) -> None:
        try:
            command(*args, **flags)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            _leave_quietly()
        except KeyboardInterrupt as interruption:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(getattr(interruption, "code", INTERRUPTED)) from None
        except Exception as error:
            raise typer.Exit(_explain(error, bool(flags.get("json")))) from None

    return run


def _leave_quietly() -> None:
    """Whoever read our output has left: `gptc show ... | head`."""
    sys.stdout = open("/dev/null", "w")  # noqa: SIM115  (Python flushes it at exit)
    raise typer.Exit(0)


def _explain(error: Exception, as_json: bool) -> int:
    """Print what went wrong, and with `--json` also as an object on stdout; returns the exit code."""
    if isinstance(error, OSError):
        error = StorageError.of(f"{error.filename or 'input or output'}: {error.strerror or error}")
    diagnostics = [_with_excerpt(d) for d in error.diagnostics] if isinstance(error, GptcError) else [_bug(error)]
    code = error.code if isinstance(error, GptcError) else InternalError.code
    for diagnostic in diagnostics:
        print(diagnostic, file=sys.stderr)
    if as_json:
        print(json.dumps({"ok": False, "code": code, "errors": [asdict(d) for d in diagnostics]}))
    return code


def _with_excerpt(diagnostic: Diagnostic) -> Diagnostic:
    """The line that the span points into, where the message does not have it yet and the file can be read."""
    span = diagnostic.span
    if span is None or diagnostic.excerpt is not None:
        return diagnostic
    from gptc.model.source import Source

    try:
        source = Source(span.file, Path(span.file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError):
        return diagnostic
    return replace(diagnostic, excerpt=source.excerpt(span))


def _bug(error: Exception) -> Diagnostic:
    """An exception that nobody foresaw: keep the traceback in a file."""
    with tempfile.NamedTemporaryFile("w", prefix="gptc-bug-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(f"{sys.argv}\n{sys.version}\n\n{''.join(traceback.format_exception(error))}")
    message = f"this is a bug in gptc: {type(error).__name__}: {error}"
    return Diagnostic(message, None, "please report it with that file", (f"the details are in {file.name}",))
