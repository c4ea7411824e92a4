"""The requests of a session, as a schema, and their limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Discriminator, Field, Tag, ValidationError

from offload_rllib.config.base import Count, Natural, Positive, Schema
from offload_rllib.config.loading import explain
from offload_rllib.envs.remote.wire import BINARY_TYPE, TYPES, WireError, from_binary
from offload_rllib.scenario.topology.size import physical_memory_bytes
from offload_rllib.serving.http import RefusedError
from offload_rllib.serving.messages import LARGEST_SEED, Quick
from offload_rllib.simulator.types import Array

PARALLEL = "parallel"
VECTOR = "vector"
MOST_OVERRIDES = 100
LONGEST_OVERRIDE = 10_000

Request = TypeVar("Request", bound=Schema)


class SessionLimits(Schema):
    """How much a service plays for its clients."""

    sessions: Count = 64
    """Sessions at a time; more are answered 503."""
    environments: Count = 1024
    """Environments of one session."""
    timeout_s: Positive = 600.0
    """A session without a request for so long is closed, s."""
    body_bytes: Count = 4 * 2**20
    """Length of a request, bytes."""
    body_s: Positive = 15.0
    """Time for a request to arrive, s; later it is answered 408."""
    memory_bytes: Count = physical_memory_bytes() // 2
    """Of all sessions together, estimated; more is answered 503."""


Action = Annotated[int, Field(strict=True)]
CallNumber = Annotated[int, Field(ge=1, strict=True)]
_CALL = (
    "Number of this call of the session, from 1. The last call may be sent again, and gets the same answer; any other "
    "number is answered 409. Without one, every request is carried out."
)


class CreateRequest(Schema):
    """A session that is to be opened."""

    interface: Literal["parallel", "vector"] = PARALLEL
    """`parallel`: one environment, all agents, as `parallel_env`; `vector`: a batch, as `vector_env`."""
    num_envs: Count = 1
    """Environments of a `vector` session."""
    overrides: Annotated[
        Quick[Annotated[str, Field(max_length=LONGEST_OVERRIDE, strict=True)]], Field(max_length=MOST_OVERRIDES)
    ] = ()
    """``a.b=value`` texts that change keys of the environment; they may not name files or Python functions."""


Key = Annotated[int, Field(ge=0, le=2**64 - 1, strict=True)] | Annotated[str, Field(pattern=r"^\d{1,20}$", strict=True)]


class ResetRequest(Schema):
    """Episodes that are to start; without any key the series of episodes continues."""

    call: Annotated[CallNumber | None, Field(description=_CALL)] = None
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED, strict=True)] | None = None
    """Starts a series of episodes, which further resets continue."""
    worker: Natural = 0
    """Part of the series' address, for clients in parallel."""
    environment: Natural = 0
    """The same; environment e of a `vector` session has this number + e."""
    first_episode: Natural = 0
    """Where in the series to begin."""
    keys: Quick[Key] = ()
    """Keys of the episodes instead of a series, for a `vector` session; numbers, or the same as text, for languages
    without integers of 64 bits."""
    environments: Quick[Natural] | None = None
    """Which environments of a `vector` session; all without it."""


def _depth(actions: Any) -> str:
    """Return which form actions have: by agent, or lists of 1, 2 or 3 levels."""
    if isinstance(actions, dict):
        return "by_agent"
    depth = 0
    while isinstance(actions, list | tuple) and depth < 3:
        depth += 1
        actions = actions[0] if actions else None
    return f"list_{max(depth, 1)}"


class StepRequest(Schema):
    """Actions that are to be carried out."""

    call: Annotated[CallNumber | None, Field(description=_CALL)] = None
    actions: Annotated[
        Annotated[Quick[Action], Tag("list_1")]
        | Annotated[Quick[Quick[Action]], Tag("list_2")]
        | Annotated[Quick[Quick[Quick[Action]]], Tag("list_3")]
        | Annotated[dict[str, Action | Quick[Action]], Tag("by_agent")],
        Discriminator(_depth),
    ]
    """Of a `parallel` session: [A], or [A][k] with k > 1 tasks at a time, or by the agents' names, of which those left
    out take 0. Of a `vector` session: [E] where decisions come with arrivals, otherwise [E][A] or [E][A][k]."""


def read_request(model: type[Request], body: bytes, kind: str) -> tuple[Request, dict[str, Array]]:
    """Return a request, and the arrays that it holds in the binary form.

    Args:
        model: its schema.
        body: what was sent; an empty body is an empty request.
        kind: its media type.

    Raises:
        RefusedError: it cannot be read, or its schema does not accept it.
    """
    arrays: dict[str, Array] = {}
    try:
        if kind == BINARY_TYPE:
            arrays, values = from_binary(body)
            return model.model_validate(_with_places(model, values, arrays)), arrays
        return model.model_validate_json(body or b"{}"), arrays
    except WireError as error:
        raise RefusedError(400, f"request: {error}", field=None, value=None, accepted=", ".join(TYPES)) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise RefusedError(
                400, f"request: {first['msg']}", field=None, value=None, accepted=", ".join(TYPES)
            ) from None
        raise _misfit(error, model, first) from None


def _with_places(model: type[Schema], values: Any, arrays: dict[str, Array]) -> Any:
    """Return the plain values of a request with an empty entry for each array, whose numbers are checked later."""
    if not isinstance(values, dict):
        return values
    known = {"actions"} & set(model.model_fields)
    unknown = sorted(set(arrays) - known)
    if unknown:
        accepted = ", ".join(sorted(known)) or "no arrays"
        raise RefusedError(
            422,
            f"request: array '{unknown[0][:40]}' is not accepted here; accepted: {accepted}",
            field=unknown[0][:40],
            value=None,
            accepted=accepted,
        )
    return {**values, **dict.fromkeys(arrays, ())}


def _misfit(error: ValidationError, model: type[Schema], first: Any) -> RefusedError:
    # Names of the members of unions, which no client wrote.
    tags = ("list_", "by_agent", "tuple[", "constrained-")
    path = [str(part) for part in first["loc"] if not str(part).startswith(tags)]
    if "by_agent" in first["loc"]:
        path = path[:2]
    shown = repr(first["input"])[:100] if first["type"] != "missing" else None
    if first["type"] == "extra_forbidden":
        accepted = ", ".join(model.model_fields)
        message = f"request: {'.'.join(path)[:100]}: unknown key; accepted: {accepted}"
    elif len(path) > 1 or first["type"] != "missing":
        accepted = first["msg"]
        message = f"request: {'.'.join(path)[:100] or '(whole body)'}: {accepted} (given: {shown})"
    else:
        accepted = "a value"
        message = explain(error, model, "request")
    return RefusedError(422, message, field=".".join(path)[:100] or None, value=shown, accepted=accepted)


def checked_actions(
    request: StepRequest, arrays: dict[str, Array], shape: tuple[int, ...], actions: int, agents: list[str] | None
) -> Array:
    """Return the actions of a request as an array.

    Args:
        request: that was read.
        arrays: that it holds.
        shape: that is expected.
        actions: R, how many an agent has.
        agents: names along the first axis, where actions by name are accepted.

    Raises:
        RefusedError: they have another shape or type, are not among 0 to R - 1, or name an unknown agent.
    """
    if "actions" in arrays:
        given: Any = arrays["actions"]
        if given.dtype.kind not in "iu":
            raise refused_value("actions", str(given.dtype), "integers (I8 to I64, U8 to U64)")
    elif isinstance(request.actions, dict):
        given = _by_agent(request.actions, shape, agents)
    else:
        given = _as_array(request.actions)
    if given.shape != shape:
        axes = {1: "environments", 2: "environments, agents", 3: "environments, agents, tasks"}[len(shape)]
        if agents is not None:
            axes = {1: "agents", 2: "agents, tasks"}[len(shape)]
        raise refused_value("actions", f"shape {list(given.shape)}", f"shape {list(shape)} ({axes})")
    wrong = (given < 0) | (given >= actions)
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), shape)
        named = [str(index) for index in place]
        if agents is not None:
            named[0] = agents[int(place[0])]
        raise refused_value(".".join(["actions", *named]), str(given[place]), f"integers from 0 to {actions - 1}")
    return given.astype(np.int32)


def _as_array(rows: Any) -> Array:
    try:
        return np.asarray(rows, dtype=np.int64) if rows else np.zeros(0, np.int64)
    except (ValueError, OverflowError) as error:
        reason = "numbers beyond 64 bits" if isinstance(error, OverflowError) else "rows of different lengths"
        raise refused_value("actions", reason, "integers of 64 bits, in rows of equal lengths") from None


def _by_agent(by_name: dict[str, Any], shape: tuple[int, ...], agents: list[str] | None) -> Array:
    if agents is None:
        raise refused_value("actions", "an object", "lists; names of agents are for interface: parallel")
    chosen = np.zeros(shape, np.int64)
    places = {agent: place for place, agent in enumerate(agents)}
    for name, action in by_name.items():
        if name not in places:
            raise refused_value("actions", repr(name[:40]), f"agents: {', '.join(agents)[:200]}")
        row = _as_array((action,) if isinstance(action, int) else action)
        if row.shape != (shape[1:] or (1,)):
            raise refused_value(f"actions.{name}", f"shape {list(row.shape)}", f"shape {list(shape[1:] or (1,))}")
        chosen[places[name]] = row if shape[1:] else row[0]
    return chosen


def refused_value(field: str, value: str, accepted: str, status: int = 422) -> RefusedError:
    """Return the error of a value that is not accepted."""
    message = f"request: {field}: {value} is not accepted; accepted: {accepted}"
    return RefusedError(status, message, field=field, value=value, accepted=accepted)
