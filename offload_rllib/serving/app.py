"""The HTTP application of a service, without what runs it: Ray Serve, or any ASGI server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from offload_rllib.policies.saved import SavedPolicy
from offload_rllib.serving.messages import ActRequest, Limits, RefusedError, Rows, read_request
from offload_rllib.simulator.types import Array
from offload_rllib.version import __version__

# Messages repeat what was given, which may be long.
MOST_CHARACTERS = 500

Act = Callable[[Rows], Awaitable[Array]]


def make_app(policy: SavedPolicy, version: str, act: Act, limits: Limits | None = None) -> Starlette:
    """Return the application.

    Args:
        policy: what is served.
        version: of the saved policy, see `policies.saved.version_of`.
        act: returns the actions [N] of a request; it may wait for others and decide for them together.
        limits: of a request; the defaults of `Limits` without them.

    Paths:
        ``POST /v1/act``: an `ActRequest`; answers `actions` [N], `version`, `deterministic` and `seed`.
        ``GET /v1/policy``: `version`, `description` (`PolicyDescription`), `limits`, `offload_rllib`.
        ``GET /v1/schema``: the JSON schema of an `ActRequest`.
        ``GET /health``: `status` and `version`.
    """
    limits = limits or Limits()
    places = Places(limits.waiting)
    about = {
        "version": version,
        "description": policy.description.model_dump(mode="json"),
        "limits": limits.model_dump(),
        "offload_rllib": __version__,
    }
    schema = ActRequest.model_json_schema()

    async def post_act(request: Request) -> Response:
        rows = read_request(await _body(request, limits), policy.description, limits)
        with places.one():
            actions = await act(rows)
        answer = {"actions": actions.tolist(), "version": version}
        return JSONResponse(answer | {"deterministic": rows.seed is None, "seed": rows.seed})

    async def get_policy(request: Request) -> Response:
        return JSONResponse(about)

    async def get_schema(request: Request) -> Response:
        return JSONResponse(schema)

    async def get_health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": version})

    return Starlette(
        routes=[
            Route("/v1/act", post_act, methods=["POST"]),
            Route("/v1/policy", get_policy),
            Route("/v1/schema", get_schema),
            Route("/health", get_health),
        ],
        exception_handlers={RefusedError: _refused, HTTPException: _http_error, Exception: _failed},
    )


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


async def _body(request: Request, limits: Limits) -> bytes:
    """Return the body of a request; its length and its duration are bounded."""
    try:
        async with asyncio.timeout(limits.body_s):
            return await _read_body(request, limits.body_bytes)
    except TimeoutError:
        raise RefusedError(408, f"request: its body did not come within {limits.body_s:g} s") from None


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


def _error(status: int, reason: str) -> Response:
    # A rejected body may not have been read to its end, so the connection cannot be used again.
    headers = {"Connection": "close"} if status in (408, 413) else None
    return JSONResponse({"error": reason[:MOST_CHARACTERS]}, status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # noqa: S101 - for the type checker
    return _error(error.status, str(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    return _error(error.status_code, f"{request.method} {request.url.path[:100]}: {error.detail}")


async def _failed(request: Request, error: Exception) -> Response:
    return _error(500, "the service failed to answer; its log says why")
