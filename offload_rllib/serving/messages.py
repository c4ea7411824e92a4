"""The schema of a service's requests, and their limits."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import Field, ValidationError, model_validator

from offload_rllib.config.base import Count, Flag, Positive, Schema
from offload_rllib.config.decisions import Weights
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import explain
from offload_rllib.policies.draws import row_draws
from offload_rllib.policies.objectives import write_weights
from offload_rllib.policies.saved import PolicyDescription, SavedPolicy
from offload_rllib.serving.http import RefusedError
from offload_rllib.simulator.types import Array

Item = TypeVar("Item")
# The check of a list stops at its first wrong entry: a million of them would take seconds to report.
Quick = Annotated[tuple[Item, ...], Field(fail_fast=True)]
LARGEST_SEED = 2**64 - 1
# Draws are made up to the largest row of a request.
LARGEST_ROW = 2**20 - 1


class Limits(Schema):
    """How much one request may hold."""

    rows: Count = 4096
    """Rows: agents that want an action."""
    body_bytes: Count = 32 * 2**20
    """Length of the JSON text, bytes."""
    body_s: Positive = 15.0
    """Time for the body to arrive, s; later it is answered 408."""
    waiting: Count = 256
    """Requests that wait for an answer, of each process; more are answered 503. Bodies under way do not count."""


class ActRequest(Schema):
    """Rows of observations that want actions: one row for each agent."""

    observations: Quick[Quick[Annotated[float, Field(allow_inf_nan=False, strict=True)]]]
    """[N][F] features, as `OffloadParallelEnv` documents them; finite, also as float32."""
    action_masks: Quick[Quick[Annotated[int, Field(ge=0, le=1, strict=True)]]]
    """[N][R], 1 where an action is valid; at least one in each row."""
    agents: Quick[str] = ()
    """[N] names of agents of the environment of training, whose policies decide; not needed for a single policy."""
    policies: Quick[str] = ()
    """[N] names of the policies that decide, instead of `agents`: for agents of another environment."""
    deterministic: Flag = True
    """Take the action of the highest score; false draws, as `SavedPolicy` does."""
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED, strict=True)] | None = None
    """Of the draws: the same seed and row give the same draw. Without one, the service draws a seed and returns it."""
    rows: Quick[Annotated[int, Field(ge=0, le=LARGEST_ROW, strict=True)]] = ()
    """[N] numbers of the rows, which address their draws; 0, 1, ... without them."""

    weights: Weights | None = None
    """Of the objectives, divided by their sum: they replace those in the observations."""

    @model_validator(mode="after")
    def _sampling(self) -> ActRequest:
        if self.deterministic and (self.seed is not None or self.rows):
            raise ValueError("seed and rows are for deterministic: false")
        if self.agents and self.policies:
            raise ValueError("give agents or policies, not both")
        return self


@dataclass(frozen=True)
class Rows:
    """A request that was checked, as arrays; see `SavedPolicy.act`.

    Attributes:
        observations: [N, F] float32.
        masks: [N, R] int8.
        owners: [N] int64.
        draws: [N] float64; NaN where the best action is taken.
        seed: of the draws.
    """

    observations: Array
    masks: Array
    owners: Array
    draws: Array
    seed: int | None


def read_request(body: bytes, description: PolicyDescription, limits: Limits, weights: Weights | None = None) -> Rows:
    """Return a request as arrays.

    Args:
        body: JSON of an `ActRequest`.
        description: of the policies that will decide.
        limits: what a request may hold.
        weights: of the objectives, where a request has none; None: as its observations say.

    Raises:
        RefusedError: the request cannot be answered; the message says which key, what was given and what is accepted.
    """
    try:
        request = ActRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise RefusedError(400, f"request: {first['msg']}") from None
        raise RefusedError(422, explain(error, ActRequest, "request")) from None
    count = len(request.observations)
    if count > limits.rows:
        raise RefusedError(413, f"request: observations: {count} rows; at most {limits.rows} are accepted at a time")
    for key in ("action_masks", "agents", "policies", "rows"):
        given = len(getattr(request, key))
        if given != count and (given or key == "action_masks"):
            raise RefusedError(422, f"request: {key}: {given} rows; observations have {count}")
    if not count:
        raise RefusedError(422, "request: observations: no rows; at least 1 is needed")
    observations = _array("observations", request.observations, np.float32)
    masks = _array("action_masks", request.action_masks, np.int8)
    misfit = description.misfit(observations.shape[1], masks.shape[1])
    if misfit:
        raise RefusedError(422, f"request: {misfit.replace('the environment has', 'the request has')}")
    _check_rows(~np.isfinite(observations).all(1), "observations", "holds a number that is too large for float32")
    _check_rows(~masks.any(1), "action_masks", "has no valid action; at least one must be 1")
    _put_weights(observations, description, request.weights or weights)
    seed, draws = request.seed, np.full(count, np.nan)
    if not request.deterministic:
        seed = secrets.randbits(64) if seed is None else seed
        draws = row_draws(seed, np.array(request.rows or range(count)))
    return Rows(observations, masks, _owners(request, count, description), draws, seed)


def _put_weights(observations: Array, description: PolicyDescription, weights: Weights | None) -> None:
    if weights is not None:
        try:
            write_weights(observations, description.weights, weights)
        except ConfigError as error:
            raise RefusedError(422, f"request: {error}") from None


def _array(key: str, rows: Sequence[Sequence[float]], dtype: Any) -> Array:
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise RefusedError(422, f"request: {key}.{i}: {len(row)} numbers; row 0 has {len(rows[0])}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, which is rejected
        return np.array(rows, np.float64).astype(dtype)


def _check_rows(wrong: Any, key: str, what: str) -> None:
    if wrong.any():
        raise RefusedError(422, f"request: {key}.{int(wrong.argmax())}: {what}")


def _owners(request: ActRequest, count: int, description: PolicyDescription) -> Array:
    places = {name: place for place, name in enumerate(description.serves)}
    if request.policies:
        key, names, known = "policies", request.policies, places
    elif request.agents:
        of_agent = zip(description.agents, description.policy_of, strict=True)
        known = {agent: places[policy] for agent, policy in of_agent}
        key, names = "agents", request.agents
    elif len(places) == 1:
        return np.zeros(count, np.int64)
    else:
        raise RefusedError(
            422, f"request: there are {len(places)} policies; name the agents or the policies of the rows"
        )
    for i, name in enumerate(names):
        if name not in known:
            # Nothing is suggested: comparing a long name with a thousand others would take long.
            raise RefusedError(422, f"request: {key}.{i}: '{name[:40]}' is unknown; GET /v1/policy lists them")
    return np.array([known[name] for name in names], np.int64)


def act_together(policy: SavedPolicy, requests: Sequence[Rows]) -> list[Array]:
    """Return the actions [N] of each of several requests, from one pass of each network.

    Requests with other numbers of actions, which a pointer network takes, go through it by themselves.
    """
    answers: list[Array] = [np.empty(0)] * len(requests)
    widths = [request.masks.shape[1] for request in requests]
    for width in dict.fromkeys(widths):
        places = [i for i, other in enumerate(widths) if other == width]
        group = [requests[i] for i in places]
        actions = policy.act(
            np.concatenate([rows.observations for rows in group]),
            np.concatenate([rows.masks for rows in group]),
            np.concatenate([rows.owners for rows in group]),
            np.concatenate([rows.draws for rows in group]),
        )
        ends = np.cumsum([len(rows.masks) for rows in group])[:-1]
        for i, part in zip(places, np.split(actions, ends), strict=True):
            answers[i] = part
    return answers
