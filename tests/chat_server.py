"""A real HTTP server that answers as a chat endpoint, or as badly as a test wants."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, bytes, dict[str, str]]


class Endpoint:
    """A chat endpoint that answers what `answer` says, and remembers what it was asked."""

    def __init__(self, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer = answer
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append(request | {"path": self.path})
                endpoint.headers.append(dict(self.headers))
                status, body, headers = endpoint.answer(request)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def said(text: str, **shares: float) -> Answer:
    """A completion; with shares, one whose first token's log probabilities are given."""
    top = [{"token": f" {word.title()}", "logprob": math.log(share)} for word, share in shares.items()]
    choice = {"message": {"content": text}, "logprobs": {"content": [{"top_logprobs": top}]} if top else None}
    return 200, json.dumps({"choices": [choice]}).encode(), {}
