"""A server for downloads: on this machine, with the failures that networks have."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gptc.corpus import download as download_module


@dataclass
class Server:
    """Serves `files`; each request first obeys the next of `faults`.

    A fault is a status to answer with, the number of bytes after which the connection ends, or a word: `ignore` the
    range, `shift` it.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[int | str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """The path and the range of each request."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download_module, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            state.requests.append(f"{self.path} {asked}".strip())
            fault = state.faults.pop(0) if state.faults else None
            body = state.files.get(self.path)
            if isinstance(fault, int) and fault in (403, 404, 500, 503):
                return self.send_error(fault)
            if body is None:
                return self.send_error(404)
            start = int(found[1]) if (found := re.match(r"bytes=(\d+)-", asked)) and fault != "ignore" else 0
            if start >= len(body) > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            part = body[start:]
            self.send_response(206 if start else 200)
            if start:
                first = start + (1 if fault == "shift" else 0)
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[:fault] if isinstance(fault, int) else part)
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        yield state
        http.shutdown()
        thread.join()
