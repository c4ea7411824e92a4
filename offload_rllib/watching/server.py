"""Serves the page and its data to browsers on this machine; it only reads."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from offload_rllib.config import ConfigError
from offload_rllib.config.names import one_line
from offload_rllib.watching.data import Watched

HOST = "127.0.0.1"
DATA = "/data.json"
REPLAY = "/replay.html"
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)


def page() -> str:
    """Return the page; what a folder contains reaches it only as data, which its script writes as text."""
    folder = resources.files("offload_rllib.watching") / "page"
    text = (folder / "watch.html").read_text(encoding="utf-8")
    for place, name in (("@@STYLE@@", "watch.css"), ("@@SCRIPT@@", "watch.js")):
        text = text.replace(place, (folder / name).read_text(encoding="utf-8"))
    return text


class Server(ThreadingHTTPServer):
    """Listens on the loopback address alone."""

    daemon_threads = True

    def __init__(self, watched: Watched, port: int, replay: Callable[[], bytes] | None = None) -> None:
        """Listen, and answer nothing yet.

        Args:
            watched: what is shown.
            port: 0 takes a free one.
            replay: gives the page of a replay; None: there is none.

        Raises:
            ConfigError: the port is taken, or not allowed.
        """
        self._watched, self._lock = watched, threading.Lock()
        self.replay = replay
        self.page = page().encode()
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise ConfigError(
                f"--port {port}: cannot listen there: {error.strerror}; choose another, or 0 for a free one"
            ) from error

    @property
    def url(self) -> str:
        """Where browsers find the page."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def names(self) -> set[str]:
        """Return what a browser may call this server: a page of another site that points its name here may not."""
        port = self.server_address[1]
        return {f"{HOST}:{port}", f"localhost:{port}"}

    def data(self) -> bytes:
        """Return the present data as JSON."""
        with self._lock:
            return json.dumps(_with_nulls(self._watched.update()), allow_nan=False).encode()


def _with_nulls(value: Any) -> Any:
    """Return a value of JSON: what is not a finite number becomes null."""
    if isinstance(value, dict):
        return {key: _with_nulls(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nulls(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; any other method is answered with 501."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride] - it is what makes handlers
    timeout = 10
    server_version, sys_version = "offload-rllib", ""

    def do_GET(self) -> None:
        """Send the page or the data."""
        if self.headers.get("Host") not in self.server.names():
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        path = self.path.partition("?")[0]
        if path == "/":
            self._send("text/html", self.server.page)
        elif path == DATA:
            self._send("application/json", self.server.data())
        elif path == REPLAY and self.server.replay is not None:
            try:
                self._send("text/html", self.server.replay())
            except (ConfigError, OSError) as error:
                self._send("text/plain", f"{one_line(str(error))}\n".encode())
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", PAGE_POLICY)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Print nothing: a page asks every two seconds."""
