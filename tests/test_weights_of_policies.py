"""Policies that take weights: they say so, refuse what does not fit, and a service puts the weights in."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from helpers.environments import at_once, make_env
from helpers.policies import kept

from offload_rllib.commands.environment_options import changes_of
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.config.decisions import Weights, parse_weights
from offload_rllib.envs.remote.connection import Connection, ServiceError
from offload_rllib.policies.saved import DESCRIPTION, SavedPolicy, load_saved_policy
from offload_rllib.serving.app import make_app
from offload_rllib.serving.messages import Limits, Rows, act_together, read_request
from offload_rllib.simulator.types import Array

REWARD = {"energy_weight": 0.5, "drop_penalty_s": 5.0, "weights": "drawn"}
ENERGY = {"kind": "power", "devices": [{"core_busy_w": 5.0}]}


def environment(**reward: Any) -> dict[str, Any]:
    """Return a small environment with three objectives."""
    return at_once(energy=ENERGY, reward=REWARD | reward)


@contextmanager
def asked_of(policy: SavedPolicy, weights: Weights | None = None) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """Serve a policy on a free port of loopback while the block runs; give what posts a request."""

    async def act(rows: Rows) -> Array:
        return act_together(policy, [rows])[0]

    app = make_app(policy, "1", act, weights=weights)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    connection = Connection(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", 60.0)
    shown = connection.get("/v1/policy")["weights"]
    assert shown == (weights.model_dump() if weights else None)
    yield lambda content: connection.post("/v1/act", content)
    connection.close()
    server.should_exit = True
    thread.join()


def test_a_policy_plays_where_its_weights_are_and_nowhere_else(tmp_path: Path) -> None:
    env = make_env(environment())
    saved = kept(tmp_path, env, weights=env.layout.weights)
    assert load_saved_policy(tmp_path).description.weights == {"response": 4, "drops": 5, "energy": 6}
    saved.on(env)
    saved.on(make_env(environment(weights={"energy": 1.0})))
    with pytest.raises(ConfigError, match=r"weights of response, drops, energy; the environment shows no weights"):
        saved.on(make_env(environment(weights=None)))
    # As many numbers, but others.
    other = environment(energy_weight=0.0, price_weight=1.0) | {"price": {"devices": [{"per_core_s": 1.0}]}}
    with pytest.raises(ConfigError, match=r"the environment shows weights of response, drops, price.*--weights"):
        saved.on(make_env(other))
    without = kept(tmp_path / "without", env)
    with pytest.raises(ConfigError, match=r"no weights of objectives; the environment shows weights of"):
        without.on(env)
    content = json.loads((tmp_path / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps(content | {"weights": {"energy": 10_000}}))
    with pytest.raises(ConfigError, match=r"weights: .*places must be below"):
        load_saved_policy(tmp_path)


def test_the_option_replaces_the_weights_of_the_environment() -> None:
    changed = load_environment(environment(), changes_of(["horizon_s=30"], "response=3,energy=1"))
    assert changed.horizon_s == 30
    assert changed.reward.weights == Weights(response=3.0, energy=1.0)
    assert changes_of(None, None) == []
    for text, message in (
        ("response", "must be OBJECTIVE=WEIGHT"),
        ("respons=1", "respons is no objective; objectives: response, drops, energy, price"),
        ("response=-1", "response: .*greater than or equal to 0"),
        ("response=0", "all weights are 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_weights(text)


def test_a_service_decides_by_the_weights_of_a_request(tmp_path: Path) -> None:
    env = make_env(environment(), 16)
    for _ in range(3):
        env.step(env.heuristic_actions("random"))
    saved = kept(tmp_path, env, weights=env.layout.weights)

    energy, response = Weights(energy=2.0), Weights(response=1.0)
    wanted = {}
    for weights in (energy, response):
        seen = env.observations.copy()
        seen[:, 4:7] = [weights.response > 0, 0.0, weights.energy > 0]
        wanted[weights.energy] = saved.act(seen, env.masks, np.zeros(16, np.int64)).tolist()
    as_seen = saved.act(env.observations, env.masks, np.zeros(16, np.int64)).tolist()
    assert wanted[2.0] != wanted[0.0] != as_seen
    with asked_of(saved) as ask:
        rows = {"observations": env.observations.tolist(), "action_masks": env.masks.tolist()}
        assert ask(rows)["actions"] == as_seen
        assert ask(rows | {"weights": {"energy": 2.0}})["actions"] == wanted[2.0]
        with pytest.raises(ServiceError, match=r"weights.price: 1 is for an objective that this policy lacks"):
            ask(rows | {"weights": {"price": 1.0}})
        with pytest.raises(ServiceError, match=r"weights.energy"):
            ask(rows | {"weights": {"energy": -1.0}})
    with asked_of(saved, response) as ask:
        assert ask(rows)["actions"] == wanted[0.0], "what the service was started with"
        assert ask(rows | {"weights": {"energy": 2.0}})["actions"] == wanted[2.0], "a request has its own"


def test_weights_are_divided_by_their_sum(tmp_path: Path) -> None:
    env = make_env(environment())
    saved = kept(tmp_path, env, weights=env.layout.weights)
    body = {"observations": env.observations.tolist(), "action_masks": env.masks.tolist()}
    request = json.dumps(body | {"weights": {"response": 1, "drops": 2, "energy": 1}}).encode()
    rows = read_request(request, saved.description, Limits())
    assert rows.observations[0, 4:7].tolist() == [0.25, 0.5, 0.25]
    assert rows.observations[0, 7:].tolist() == env.observations[0, 7:].tolist()
