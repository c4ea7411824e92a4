"""What the services have in common: reading the body of a request within limits, and errors as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

# Messages repeat what was given, which may be long.
MOST_CHARACTERS = 500
# After these a connection cannot be used again: the body of a rejected request may not have been read to its end.
CLOSING = (401, 403, 408, 413, 415)


class RefusedError(ValueError):
    """A request that is not answered.

    Attributes:
        status: the HTTP status: 400 no JSON, 408 too slow, 413 too much, 422 not what is accepted, 503 full, and others
            as a service documents them.
        details: what else the answer holds, beside the message.
    """

    def __init__(self, status: int, reason: str, **details: Any) -> None:
        """Take the status, what is wrong, and details."""
        super().__init__(reason)
        self.status = status
        self.details = details


class Places:
    """Requests that may wait for an answer at the same time; one counts from when it is there in full."""

    def __init__(self, most: int) -> None:
        """Set how many."""
        self._free = most

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place while the block runs.

        Raises:
            RefusedError: there is none.
        """
        if not self._free:
            raise RefusedError(503, "the service is full: too many requests wait; ask again later")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


async def body_of(request: Request, most_bytes: int, most_s: float) -> bytes:
    """Return the body of a request.

    Args:
        request: whose.
        most_bytes: that are accepted.
        most_s: in which it must arrive.

    Raises:
        RefusedError: it is longer, comes later, or ends early.
    """
    try:
        async with asyncio.timeout(most_s):
            return await _read_body(request, most_bytes)
    except TimeoutError:
        raise RefusedError(408, f"request: its body did not come within {most_s:g} s") from None


async def _read_body(request: Request, most_bytes: int) -> bytes:
    too_much = RefusedError(413, f"request: longer than {most_bytes} bytes, which is the most that is accepted")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > most_bytes:
        raise too_much
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > most_bytes:
                raise too_much
    except ClientDisconnect:
        raise RefusedError(400, "request: ended before its body did") from None
    return bytes(body)


def error_answer(status: int, reason: str, **details: Any) -> Response:
    """Return an error as an answer: its message as ``error``, and details."""
    headers = {"Connection": "close"} if status in CLOSING else None
    return JSONResponse({"error": reason[:MOST_CHARACTERS], **details}, status, headers)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # noqa: S101 - for the type checker
    return error_answer(error.status, str(error), **error.details)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    return error_answer(error.status_code, f"{request.method} {request.url.path[:100]}: {error.detail}")


async def _failed(_request: Request, _error: Exception) -> Response:
    return error_answer(500, "the service failed to answer; its log says why")


ERROR_HANDLERS: dict[Any, Any] = {RefusedError: _refused, HTTPException: _http_error, Exception: _failed}
