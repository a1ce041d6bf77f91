"""`gptc cache`: what is stored, and how to be rid of it."""

from __future__ import annotations

from collections.abc import Callable

from gptc.cli.flags import Json


def stats(json: Json = False) -> None:
    """Say where the cache is and what it holds."""
    from gptc.cli.output import Output, size
    from gptc.runtime.cache import Cache

    output, found = Output(json), Cache().stats()
    output.line(f"{found.root}: {found.entries} entries, {size(found.bytes)} of at most {size(found.max_bytes)}")
    sizes = {"entries": found.entries, "bytes": found.bytes, "max_bytes": found.max_bytes}
    output.result({"root": str(found.root), **sizes})


def clear(json: Json = False) -> None:
    """Drop all compiled code, which is made again when it is needed; what was tuned, measured or fetched stays."""
    from gptc.cli.output import Output
    from gptc.runtime.cache import Cache

    output, cache = Output(json), Cache()
    dropped = cache.clear()
    output.line(f"{cache.root}: dropped {dropped} entries")
    output.result({"root": str(cache.root), "dropped": dropped})


def verify(json: Json = False) -> None:
    """Check every entry against its checksums, and drop what is damaged."""
    from gptc.cli.output import Output
    from gptc.runtime.cache import Cache

    output, cache = Output(json), Cache()
    checked, damaged = cache.stats().entries, cache.verify()
    output.line(f"{cache.root}: {checked} entries checked, {len(damaged)} damaged and dropped")
    output.result({"root": str(cache.root), "checked": checked, "damaged": list(damaged)})


ACTIONS: dict[str, Callable[..., None]] = {"stats": stats, "clear": clear, "verify": verify}
