"""A connection to a service over HTTP: requests, repetitions, errors."""

from __future__ import annotations

import http.client
import json
import random
import time
from typing import Any
from urllib.parse import SplitResult, urlsplit

from offload_rllib.config.errors import ConfigError

SCHEMES = ("http", "https")
TIMEOUT_S = 30.0
JSON_TYPE = "application/json"
# How often a request is repeated when the service is full, and the wait before the first repetition.
REPEATS = 5
FIRST_WAIT_S = 0.05


class ServiceError(RuntimeError):
    """A service rejected a request, or does not answer; the message names it and its reason.

    Attributes:
        status: the HTTP status of the answer; None without an answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        """Take what is wrong, and the status."""
        super().__init__(message)
        self.status = status


def is_service(name: str) -> bool:
    """Return whether a text is the address of a service rather than a name or a folder."""
    return name.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def check_token(token: str) -> None:
    """Check a token, which travels in a header.

    Raises:
        ConfigError: it is empty, or has other characters than printable ASCII without spaces.
    """
    if not (token and token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError("token: must be printable ASCII characters without spaces, at least one")


class _InOnePiece:
    """Sends the head of a request together with its body: two packets would wake the service twice."""

    _waiting: list[bytes] | None = None

    def request(self, method: str, url: str, body: Any = None, headers: Any = {}, **options: Any) -> None:  # noqa: B006 - the signature of `HTTPConnection`
        self._waiting = []
        try:
            super().request(method, url, body, headers, **options)  # pyright: ignore[reportAttributeAccessIssue] - the class beside this one
            whole = b"".join(self._waiting)
        finally:
            self._waiting = None
        self.send(whole)

    def send(self, data: Any) -> None:
        if self._waiting is None:
            super().send(data)  # pyright: ignore[reportAttributeAccessIssue] - as above
        else:
            self._waiting.append(data)


class _HTTPConnection(_InOnePiece, http.client.HTTPConnection):
    pass


class _HTTPSConnection(_InOnePiece, http.client.HTTPSConnection):
    pass


class Connection:
    """A connection to a service that is kept open; one request at a time, from one thread."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S, token: str | None = None) -> None:
        """Take an address; no request is sent yet.

        Args:
            url: e.g. ``http://127.0.0.1:8000``.
            timeout_s: for each answer.
            token: that the service wants; None: none is sent.

        Raises:
            ConfigError: it is not the address of a service, or the token cannot be sent in a header.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"'{url}': not an address: {error}") from error
        if parts.scheme not in SCHEMES or not parts.hostname or parts.query or parts.username:
            raise ConfigError(f"'{url}': not the address of a service; write http://HOST:PORT")
        if token is not None:
            check_token(token)
        self.url = url.rstrip("/")
        self._parts: SplitResult = parts
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        kind = _HTTPSConnection if parts.scheme == "https" else _HTTPConnection
        self._connection = kind(parts.hostname, port, timeout=timeout_s)

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    def get(self, path: str) -> Any:
        """Return what a path answers; errors as `post`."""
        return self._content(*self.request("GET", path))

    def post(self, path: str, content: Any) -> Any:
        """Return the answer to some content; if the service is full, the request is repeated with growing pauses.

        Raises:
            ServiceError: there is no service, it stays full, or it rejects the content.
        """
        body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        return self._content(*self.request("POST", path, body))

    def request(
        self, method: str, path: str, body: bytes | None = None, kind: str = JSON_TYPE, accept: str = JSON_TYPE
    ) -> tuple[str, bytes]:
        """Return the media type and the body of an answer; repetitions and errors as `post`.

        Args:
            method: of HTTP.
            path: of the service.
            body: what is sent.
            kind: its media type.
            accept: media type that is asked for.
        """
        headers = self._headers | {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = kind
        status, answered, answer = self._send(method, path, body, headers)
        for repeat in range(REPEATS):
            if status != http.client.SERVICE_UNAVAILABLE:
                break
            time.sleep(FIRST_WAIT_S * 2**repeat * random.uniform(0.5, 1.5))  # noqa: S311 - spreads clients; no secret
            status, answered, answer = self._send(method, path, body, headers)
        if status not in (http.client.OK, http.client.CREATED):
            try:
                content = json.loads(answer)
            except ValueError:
                content = answer.decode(errors="replace").strip()[:200]
            reason = content.get("error", content) if isinstance(content, dict) else content
            raise ServiceError(f"{self.url}{path}: {status}: {reason}", status)
        return answered, answer

    def _content(self, _kind: str, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError:
            return answer.decode(errors="replace").strip()[:200]

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, str, bytes]:
        for is_last in (False, True):
            fresh = self._connection.sock is None
            try:
                self._connection.request(method, f"{self._parts.path.rstrip('/')}{path}", body, headers)
                response = self._connection.getresponse()
                return response.status, response.headers.get("Content-Type", ""), response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                # A service may close a connection that was idle. Only what was never answered is sent again.
                if isinstance(error, http.client.RemoteDisconnected | ConnectionError) and not (fresh or is_last):
                    continue
                raise ServiceError(f"{self.url}: no answer from a service: {error or type(error).__name__}") from error
        raise AssertionError("the last try returns or raises")
