"""The service as an OpenAPI 3.1 document, and as a page for people."""

from __future__ import annotations

import html
from typing import Any, NamedTuple

from pydantic.json_schema import models_json_schema

from offload_rllib.config.base import Schema
from offload_rllib.envs.remote.connection import JSON_TYPE
from offload_rllib.envs.remote.wire import BINARY_TYPE
from offload_rllib.serving.environments import answers
from offload_rllib.serving.environments.messages import CreateRequest, ResetRequest, StepRequest
from offload_rllib.serving.environments.sessions import Sessions
from offload_rllib.version import __version__

BINARY = {"schema": {"description": "safetensors: arrays as tensors, plain values as JSON text at __metadata__.values"}}
SESSION = {
    "name": "session",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "Name of the session, from the answer that opened it.",
}
STATUSES = {
    "400": "the body is not JSON, not safetensors, or ended early",
    "401": "the token is missing or wrong",
    "403": "the Host header names another machine",
    "404": "no such session or path",
    "405": "another method is accepted",
    "408": "the body came too slowly",
    "409": "the state does not allow it: step before reset, another request under way, another number of a call",
    "413": "the body is too long",
    "415": "the body is neither JSON nor safetensors",
    "422": "a key, value, shape or type is not accepted",
    "500": "the service or the environment failed",
    "503": "all sessions or all memory are in use; ask again later",
}


class Operation(NamedTuple):
    """A method of a path.

    Attributes:
        path: with the session's name as a parameter.
        method: of HTTP.
        name: of the operation.
        summary: what it does.
        request: schema of the body; None: there is no body.
        answers: schemas of which the answer is one.
        has_arrays: whether the binary form can be sent and asked for.
        query: names of parameters: integers, or integers separated by commas.
    """

    path: str
    method: str
    name: str
    summary: str
    request: type[Schema] | None
    answers: tuple[type[Schema], ...]
    has_arrays: bool = False
    query: tuple[str, ...] = ()


ONE = "/v1/sessions/{session}"
EPISODES = (answers.ParallelAnswer, answers.VectorAnswer)
OPERATIONS = (
    Operation("/v1/sessions", "post", "create", "Open a session.", CreateRequest, (answers.SessionDescription,)),
    Operation(ONE, "get", "spaces", "Agents, spaces and sizes of a session.", None, (answers.SessionDescription,)),
    Operation(f"{ONE}/reset", "post", "reset", "Start episodes.", ResetRequest, EPISODES, has_arrays=True),
    Operation(
        f"{ONE}/step", "post", "step", "Carry out actions, in all environments.", StepRequest, EPISODES, has_arrays=True
    ),
    Operation(
        f"{ONE}/metrics",
        "get",
        "metrics",
        "Figures of finished episodes; of all that have ended without `environments`.",
        None,
        (answers.MetricsAnswer,),
        query=("environments",),
    ),
    Operation(
        f"{ONE}/closing",
        "get",
        "closing",
        "Last observations and rewards of all agents, where decisions come with arrivals.",
        None,
        (answers.ClosingAnswer,),
        has_arrays=True,
        query=("environment",),
    ),
    Operation(
        f"{ONE}/destinations",
        "get",
        "destinations",
        "The nodes that the actions of each agent lead to.",
        None,
        (answers.DestinationsAnswer,),
        query=("environment",),
    ),
    Operation(ONE, "delete", "close", "Close a session and free its memory.", None, (answers.ClosedAnswer,)),
    Operation("/v1/environment", "get", "about", "What is served, and the limits.", None, (answers.AboutAnswer,)),
    Operation(
        "/health", "get", "health", "Whether the service answers; needs no token.", None, (answers.HealthAnswer,)
    ),
)


def document(sessions: Sessions, *, needs_token: bool) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the service.

    Args:
        sessions: what is served.
        needs_token: whether requests must bring a token.
    """
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation, needs_token=needs_token)
    content: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": f"Environment {sessions.name} of offload-rllib",
            "version": __version__,
            "description": sessions.scenario.config.description,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas()},
    }
    if needs_token:
        content["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        content["security"] = [{"token": []}]
    return content


def schemas() -> dict[str, Any]:
    """Return the JSON schemas of all requests and answers, by name."""
    models = {model for operation in OPERATIONS for model in operation.answers}
    models |= {operation.request for operation in OPERATIONS if operation.request} | {answers.ErrorAnswer}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, defined = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    return defined["$defs"]


def _described(operation: Operation, *, needs_token: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    parameters = [SESSION] * ("{session}" in operation.path)
    parameters += [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "string", "pattern": r"^\d+(,\d+)*$"},
            "description": "Numbers of environments, from 0.",
        }
        for name in operation.query
    ]
    if parameters:
        described["parameters"] = parameters
    if operation.request:
        described["requestBody"] = {
            "required": True,
            "content": _content((operation.request,), has_arrays=operation.has_arrays),
        }
    status = "201" if operation.name == "create" else "200"
    described["responses"] = {
        status: {
            "description": operation.summary,
            "content": _content(operation.answers, has_arrays=operation.has_arrays),
        }
    }
    for code, meaning in STATUSES.items():
        if operation.path == "/health" and code not in ("403", "500"):
            continue
        described["responses"][code] = {"description": meaning, "content": _content((answers.ErrorAnswer,))}
    if operation.path == "/health" and needs_token:
        described["security"] = []
    return described


def _content(models: tuple[type[Schema], ...], *, has_arrays: bool = False) -> dict[str, Any]:
    references = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    content: dict[str, Any] = {JSON_TYPE: {"schema": references[0] if len(references) == 1 else {"anyOf": references}}}
    if has_arrays:
        content[BINARY_TYPE] = BINARY
    return content


def index_page(sessions: Sessions) -> str:
    """Return a page for people: what is served, and its paths."""
    name, description = html.escape(sessions.name), html.escape(sessions.scenario.config.description)
    rows = "\n".join(
        f"<tr><td><code>{operation.method.upper()}</code></td><td><code>{html.escape(operation.path)}</code></td>"
        f"<td>{html.escape(operation.summary)}</td></tr>"
        for operation in OPERATIONS
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}: offload-rllib</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}}
table{{border-collapse:collapse}}td,th{{text-align:left;padding:.25rem 1rem .25rem 0;vertical-align:top}}</style></head>
<body><h1>Environment {name}</h1><p>{description}</p>
<p>offload-rllib {html.escape(__version__)}. Described for programs by <a href="openapi.json">openapi.json</a>.</p>
<table><thead><tr><th>method</th><th>path</th><th>what it does</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""
