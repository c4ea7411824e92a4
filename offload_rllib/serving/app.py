"""The HTTP application of a service, without what runs it: Ray Serve, or any ASGI server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from offload_rllib.config.decisions import Weights
from offload_rllib.policies.saved import SavedPolicy
from offload_rllib.serving.http import ERROR_HANDLERS, Places, body_of
from offload_rllib.serving.messages import ActRequest, Limits, Rows, read_request
from offload_rllib.simulator.types import Array
from offload_rllib.version import __version__

Act = Callable[[Rows], Awaitable[Array]]


def make_app(
    policy: SavedPolicy, version: str, act: Act, limits: Limits | None = None, weights: Weights | None = None
) -> Starlette:
    """Return the application.

    Args:
        policy: what is served.
        version: of the saved policy, see `policies.saved.version_of`.
        act: returns the actions [N] of a request; it may wait for others and decide for them together.
        limits: of a request; the defaults of `Limits` without them.
        weights: of the objectives, for requests without any.

    Paths:
        ``POST /v1/act``: an `ActRequest`; answers `actions` [N], `version`, `deterministic` and `seed`.
        ``GET /v1/policy``: `version`, `description` (`PolicyDescription`), `limits`, `weights`, `offload_rllib`.
        ``GET /v1/schema``: the JSON schema of an `ActRequest`.
        ``GET /health``: `status` and `version`.
    """
    limits = limits or Limits()
    places = Places(limits.waiting)
    about = {
        "version": version,
        "description": policy.description.model_dump(mode="json"),
        "limits": limits.model_dump(),
        "weights": weights.model_dump() if weights else None,
        "offload_rllib": __version__,
    }
    schema = ActRequest.model_json_schema()

    async def post_act(request: Request) -> Response:
        body = await body_of(request, limits.body_bytes, limits.body_s)
        rows = read_request(body, policy.description, limits, weights)
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
        exception_handlers=ERROR_HANDLERS,
    )
