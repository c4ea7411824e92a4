"""The HTTP application of an environment, without what runs it."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from offload_rllib.config import ConfigError
from offload_rllib.envs.remote.connection import JSON_TYPE
from offload_rllib.envs.remote.wire import BINARY_TYPE, TYPES
from offload_rllib.envs.remote.wire import body_of as wire_body
from offload_rllib.serving.environments.messages import (
    CreateRequest,
    ResetRequest,
    StepRequest,
    read_request,
    refused_value,
)
from offload_rllib.serving.environments.openapi import document, index_page
from offload_rllib.serving.environments.session import Answer
from offload_rllib.serving.environments.sessions import Held, Sessions
from offload_rllib.serving.http import ERROR_HANDLERS, RefusedError, body_of, error_answer
from offload_rllib.version import __version__

# Paths that say what this service is, and nothing of its sessions: they need no token.
OPEN_PATHS = ("/", "/health", "/openapi.json")
# Requests that are carried out at the same time; others wait for their turn.
THREADS = 8
# A call whose predecessor took less, s, is carried out in the loop, which answers nothing else meanwhile.
QUICK_S = 0.001
LONGEST_PAUSE_S = 10.0
logger = logging.getLogger(__name__)


class Guard:
    """Admits requests with the token; without a token, those that call this machine by a name of its own."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        """Guard an application."""
        self._app = app
        self._expected = f"Bearer {token}".encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 403, or pass the request on."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        if self._expected is None:
            # A page of another site whose name was pointed at this machine would send that name.
            host = headers.get(b"host", b"").decode("latin-1").lower()
            if _is_this_machine(host):
                return None
            accepted = "localhost, 127.0.0.1 or [::1]; listen on another --host for other names"
            return error_answer(403, f"Host: '{host[:100]}'; accepted: {accepted}", field="Host", accepted=accepted)
        if scope["path"] in OPEN_PATHS or hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            return None
        accepted = "Authorization: Bearer TOKEN, with the token of this service"
        answer = error_answer(401, f"the token is missing or wrong; accepted: {accepted}", field="Authorization")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer


def _is_this_machine(host: str) -> bool:
    """Return whether a Host header, with or without a port, is `localhost` or a loopback address."""
    name = re.sub(r":\d*$", "", host)
    try:
        return name == "localhost" or ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


class EnvironmentService:
    """The paths of the service; `openapi.document` describes them."""

    def __init__(self, sessions: Sessions) -> None:
        """Serve some sessions."""
        self._sessions = sessions
        self._limits = sessions.limits
        self._threads = CapacityLimiter(THREADS)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run what takes time beside the loop that answers others."""
        return await to_thread.run_sync(function, *arguments, limiter=self._threads)

    async def _in_loop_or_thread(self, name: str, action: str, function: Callable[[], bytes]) -> bytes:
        """Run a call of a session: in the loop if its last one was quick, because a hop takes longer."""
        quick = self._sessions.seconds_of(name, action) < QUICK_S
        return function() if quick else await self._in_thread(function)

    async def create(self, request: Request) -> Response:
        """Open a session."""
        wanted, _ = await self._read(request, CreateRequest)
        name, description = await self._in_thread(self._sessions.open, wanted)
        return JSONResponse(
            {"session": name, "timeout_s": self._limits.timeout_s, **description},
            201,
            {"Location": f"/v1/sessions/{name}"},
        )

    async def describe(self, request: Request) -> Response:
        """Return the description of a session: spaces and sizes."""

        def describe(held: Held) -> Answer:
            return Answer({"calls": held.calls, **held.session.description()})

        return await self._ask(request, describe)

    async def reset(self, request: Request) -> Response:
        """Start episodes."""
        wanted, _ = await self._read(request, ResetRequest)
        return await self._call(request, wanted, lambda held: held.session.reset(wanted))

    async def step(self, request: Request) -> Response:
        """Carry out actions."""
        wanted, arrays = await self._read(request, StepRequest)
        return await self._call(request, wanted, lambda held: held.session.step(wanted, arrays))

    async def metrics(self, request: Request) -> Response:
        """Return the figures of finished episodes."""
        environments = _integers(request, "environments")
        return await self._ask(request, lambda held: held.session.figures(environments))

    async def closing(self, request: Request) -> Response:
        """Return what all agents get at the end of an episode."""
        environment = (_integers(request, "environment") or [0])[0]
        return await self._ask(request, lambda held: held.session.closing(environment))

    async def destinations(self, request: Request) -> Response:
        """Return the nodes that actions lead to."""
        environment = (_integers(request, "environment") or [0])[0]
        return await self._ask(request, lambda held: held.session.destinations(environment))

    async def close(self, request: Request) -> Response:
        """Close a session."""
        self._sessions.close(request.path_params["session"])
        return JSONResponse({"closed": True})

    async def about(self, _request: Request) -> Response:
        """Return what is served, and the limits."""
        config = self._sessions.scenario.config
        return JSONResponse(
            {
                "environment": self._sessions.name,
                "description": config.description,
                "limits": self._limits.model_dump(),
                "offload_rllib": __version__,
            }
        )

    async def health(self, _request: Request) -> Response:
        """Say that the service answers."""
        return JSONResponse({"status": "ok", "sessions": len(self._sessions)})

    async def _read(self, request: Request, model: type[Any]) -> tuple[Any, Any]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in TYPES:
            # What a browser sends for a form, from a page of any site, is rejected here.
            raise refused_value("Content-Type", repr(kind[:100]), " or ".join(TYPES), 415)
        body = await body_of(request, self._limits.body_bytes, self._limits.body_s)
        return read_request(model, body, kind)

    async def _ask(self, request: Request, ask: Callable[[Held], Answer]) -> Response:
        kind, name = _wanted_kind(request), request.path_params["session"]

        def asked() -> bytes:
            with self._sessions.used(name) as held:
                answer = ask(held)
                return wire_body(kind, answer.arrays, answer.values)

        return Response(await self._in_thread(asked), media_type=kind)

    async def _call(self, request: Request, wanted: Any, carry_out: Callable[[Held], Answer]) -> Response:
        kind, name = _wanted_kind(request), request.path_params["session"]
        action = request.url.path.rpartition("/")[2]
        form = f"{kind} {action}"

        def called() -> bytes:
            with self._sessions.used(name) as held:
                if wanted.call is not None and wanted.call != held.calls + 1:
                    return _repeated(held, wanted.call, form)
                began = time.perf_counter()
                try:
                    answer = carry_out(held)
                except RefusedError:
                    raise
                except Exception as error:
                    # Environments may have been left between two states.
                    with suppress(RefusedError):
                        self._sessions.close(name)
                    if not isinstance(error, ConfigError):
                        raise
                    logger.exception("a session failed")
                    raise RefusedError(500, f"session: closed, because its environment failed: {error}") from error
                held.calls += 1
                body = wire_body(kind, answer.arrays, {"call": held.calls, **answer.values})
                held.last = (form, body)
                held.took_s[action] = time.perf_counter() - began
                return body

        return Response(await self._in_loop_or_thread(name, action, called), media_type=kind)


def _repeated(held: Held, call: int, form: str) -> bytes:
    """Return the answer to the last call again, or refuse a number that is neither that one nor the next."""
    last_form, body = held.last
    if call == held.calls and form == last_form:
        return body
    accepted = f"{held.calls + 1}, the next call" + (
        f", or {held.calls}, the last one, as it was sent" if held.calls else ""
    )
    raise refused_value("call", str(call), accepted, 409)


def _wanted_kind(request: Request) -> str:
    """Return the media type that a client accepts: JSON unless it names the binary form."""
    return BINARY_TYPE if BINARY_TYPE in request.headers.get("accept", "") else JSON_TYPE


def _integers(request: Request, name: str) -> list[int]:
    text = request.query_params.get(name, "")
    parts = [part for part in text.split(",") if part]
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise refused_value(name, repr(text[:100]), "integers, separated by commas")
    return [int(part) for part in parts]


def make_app(sessions: Sessions, token: str | None = None) -> Starlette:
    """Return the application.

    Args:
        sessions: that it opens.
        token: that every request must bring, except those for `OPEN_PATHS`; None: none is needed, and only names of
            this machine are accepted as the host.
    """
    service = EnvironmentService(sessions)
    described, page = document(sessions, needs_token=token is not None), index_page(sessions)

    async def get_document(_request: Request) -> Response:
        return JSONResponse(described)

    async def get_page(_request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"})

    one = "/v1/sessions/{session}"
    return Starlette(
        routes=[
            Route(f"{one}/step", service.step, methods=["POST"]),
            Route(f"{one}/reset", service.reset, methods=["POST"]),
            Route(f"{one}/metrics", service.metrics),
            Route(f"{one}/closing", service.closing),
            Route(f"{one}/destinations", service.destinations),
            Route(one, service.describe),
            Route(one, service.close, methods=["DELETE"]),
            Route("/v1/sessions", service.create, methods=["POST"]),
            Route("/v1/environment", service.about),
            Route("/health", service.health),
            Route("/openapi.json", get_document),
            Route("/", get_page),
        ],
        middleware=[Middleware(partial(Guard, token=token))],
        exception_handlers=ERROR_HANDLERS,
        lifespan=partial(_reaping, sessions),
    )


@asynccontextmanager
async def _reaping(sessions: Sessions, _app: Starlette) -> AsyncIterator[None]:
    """Close abandoned sessions while the application runs."""
    pause_s = min(sessions.limits.timeout_s / 4, LONGEST_PAUSE_S)

    async def reap() -> None:
        while True:
            await asyncio.sleep(pause_s)
            sessions.close_abandoned()

    task = asyncio.create_task(reap())
    try:
        yield
    finally:
        task.cancel()
