"""An environment behind HTTP is the one in the process: the same seeds give the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers.environments import ARRIVAL, small_environment
from helpers.services import BINARY, JSON, same, send, served, written
from pettingzoo.test import parallel_api_test

import offload_rllib
from offload_rllib.config import ConfigError
from offload_rllib.envs.remote.connection import ServiceError
from offload_rllib.envs.remote.session import figures_of
from offload_rllib.envs.remote.wire import body_of, contents_of

FORMS: dict[str, dict[str, Any]] = {
    "arrival": small_environment(decisions=ARRIVAL),
    "interval": small_environment(),
    "two_tasks": small_environment(decisions={"tasks_per_decision": 2}),
}


@pytest.fixture(scope="module", params=list(FORMS))
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Return the address of a service and the file of its environment."""
    env = written(tmp_path_factory.mktemp("env"), FORMS[request.param])
    with served(env) as (url, _):
        yield url, env


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_the_same_seeds_give_the_same_bits_agent_by_agent(service: tuple[str, str], *, binary: bool) -> None:
    url, env = service
    here, there = offload_rllib.parallel_env(env), offload_rllib.remote_env(url, binary=binary)
    assert here.possible_agents == there.possible_agents
    assert here.observation_spaces == there.observation_spaces
    assert here.action_spaces == there.action_spaces
    assert here.state_space == there.state_space
    assert here.steps_per_episode == there.steps_per_episode
    rng = np.random.default_rng(0)
    for seed in (5, None):  # the second episode continues the series
        assert same(here.reset(seed=seed), there.reset(seed=seed))
        assert all(here.destinations(agent) == there.destinations(agent) for agent in here.agents)
        while here.agents:
            size = here.action_space("a").shape or None
            # Masked actions act as 0, and agents without an action take 0, on both sides.
            actions = {agent: rng.integers(0, 3, size) for agent in here.agents[:3]}
            assert same(here.step(actions), there.step(actions))
            assert here.deciding_agent == there.deciding_agent
            assert same(here.state(), there.state())
        assert there.agents == []
    there.close()


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_the_same_keys_give_the_same_bits_in_batches(service: tuple[str, str], *, binary: bool) -> None:
    url, env = service
    here, there = offload_rllib.vector_env(env, 3), offload_rllib.remote_vector_env(url, 3, binary=binary)
    names = ["observations", "masks", "rewards", "truncated"]
    if here.steps_per_episode is None:
        names += ["deciding", "time_s", "elapsed_s", "decisions"]

    def agree() -> bool:
        return all(same(np.ascontiguousarray(getattr(here, name)), getattr(there, name)) for name in names)

    sizes = ("agents", "num_envs", "num_actions", "tasks_per_decision", "observation_size", "steps_per_episode")
    assert all(getattr(here, name) == getattr(there, name) for name in sizes)
    keys = offload_rllib.held_out_keys(7, 4)
    for env_ in (here, there):
        env_.reset(keys[:3])
    assert agree()
    for _ in range(60):
        if here.truncated[1]:
            break
        actions = here.heuristic_actions("random")
        assert here.step(actions) == there.step(actions)
        assert agree()
    while not here.truncated[1]:
        actions = here.heuristic_actions("local")
        assert here.step(actions) == there.step(actions)
    assert same(here.episode_metrics(1), there.episode_metrics(1))
    if here.steps_per_episode is None:
        assert same(list(here.closing(1)), list(there.closing(1)))
    for env_ in (here, there):
        env_.reset(keys[3:], np.array([1]))
    assert agree()
    there.close()


def test_a_seed_of_a_batch_starts_the_series_of_its_environments(service: tuple[str, str]) -> None:
    url, env = service
    batch, one = offload_rllib.remote_vector_env(url, 2), offload_rllib.parallel_env(env)
    batch.reset(seed=3, worker=1)
    one.start_series(3, worker=1, environment=1)
    for _ in range(2):
        one.begin_episode()
        assert same(np.ascontiguousarray(one.batch.observations[0]), batch.observations[1].copy())
        batch.reset(environments=np.array([1]))
    batch.close()


def played(env: Any) -> list[dict[str, float]]:
    """Return the rewards of an episode in which all tasks stay where they are."""
    earned = []
    while env.agents:
        earned.append(env.step({})[1])
    return earned


def test_a_series_has_the_address_that_the_client_gives(service: tuple[str, str]) -> None:
    url, env = service
    here, there = offload_rllib.parallel_env(env), offload_rllib.remote_env(url)
    address = {"worker": 2, "environment": 3, "first_episode": 4}
    here.start_series(5, **address)
    here.reset()
    there.reset(seed=5, options=address)
    mine = played(here)
    assert mine == played(there)
    there.reset(seed=5)
    assert mine != played(there)
    there.close()


@pytest.mark.parametrize("kind", [JSON, BINARY])
def test_numbers_travel_to_the_last_bit_finite_or_not(kind: str) -> None:
    numbers = [0.0, -0.0, 0.1, 1e-45, 3.4028235e38, np.inf, -np.inf, np.nan]
    rng = np.random.default_rng(0)
    arrays = {
        "observations": np.array([*numbers, *rng.standard_normal(1000)], np.float32),
        "time_s": np.array([*numbers, 5e-324, *rng.standard_normal(1000)]),
        "deciding": np.array([-1, 2**62]),
        "truncated": np.array([True, False]),
    }
    values = {"figures": {"mean": 0.1 + 0.2, "none": float("nan"), "most": float("inf")}, "ü": "\n"}
    read, plain = contents_of(kind, body_of(kind, arrays, values))
    if kind == JSON:
        read = {name: np.asarray(plain.pop(name)).astype(array.dtype) for name, array in arrays.items()}
    assert same(read, arrays) if kind == JSON else all(same(read[name], array) for name, array in arrays.items())
    assert same(figures_of(plain["figures"]), values["figures"])
    assert plain["ü"] == "\n"


@pytest.mark.filterwarnings("ignore")
def test_pettingzoos_own_test_passes(service: tuple[str, str]) -> None:
    env = offload_rllib.remote_env(service[0])
    parallel_api_test(env, num_cycles=60)
    env.close()


def test_overrides_of_a_client_hold_for_its_session(service: tuple[str, str]) -> None:
    url, env = service
    changes = ["workload.load.tasks_per_second_per_client=3.5", "horizon_s=20"]
    here = offload_rllib.parallel_env(env, overrides=changes)
    there = offload_rllib.remote_env(url, overrides=changes)
    assert there.description["fingerprint"] != offload_rllib.remote_env(url).description["fingerprint"]
    assert same(here.reset(seed=1), there.reset(seed=1))
    while here.agents:
        assert same(here.step({}), there.step({}))
    with pytest.raises(ConfigError, match=r"workload.load.rhoo: unknown key"):
        offload_rllib.remote_env(url, overrides=["workload.load.rhoo=1"])


def test_answers_that_are_lost_are_given_again_and_nothing_is_done_twice(service: tuple[str, str]) -> None:
    url, env = service
    here, there = offload_rllib.parallel_env(env), offload_rllib.remote_env(url)
    connection = there._session._connection
    assert same(here.reset(seed=2), there.reset(seed=2))
    for _ in range(5):
        # The service answers, and the client's connection breaks before it has read the answer.
        body = connection._connection.response_class
        connection._connection.response_class = lost_once(body)
        assert same(here.step({}), there.step({}))
    there.close()


def lost_once(kind: Any) -> Any:
    """Return a class of responses whose first instance breaks off once the service has answered."""
    lost = []

    def make(sock: Any, *arguments: Any, **options: Any) -> Any:
        if not lost:
            lost.append(sock.recv(10))
            raise ConnectionResetError("broken")
        return kind(sock, *arguments, **options)

    return make


def test_errors_are_those_of_the_environment_in_the_process(service: tuple[str, str]) -> None:
    url, env = service
    strict = ["decisions.strict=true"]
    here, there = offload_rllib.parallel_env(env, overrides=strict), offload_rllib.remote_env(url, overrides=strict)
    with pytest.raises(ServiceError, match="no episode has begun; reset comes before the first step"):
        there.step({})
    here.reset(seed=0)
    there.reset(seed=0)
    agent = here.deciding_agent or "a"
    size = here.action_space(agent).shape or None
    bad = here.batch.num_actions
    with pytest.raises(ValueError, match=rf"actions.{agent}.*{bad} is not accepted; accepted: integers from 0 to"):
        there.step({agent: np.full(size or (), bad)})
    with pytest.raises(ValueError, match=rf"agent '{agent}': action .*nan.*: must be an integer"):
        there.step({agent: np.full(size or (), np.nan)})
    if here.deciding_agent is None:  # with arrivals, whoever is asked in this ring may do anything
        actions = {name: np.full(size or (), 1) for name in here.possible_agents}
        assert not np.all(here.batch.masks[..., 1])
        with pytest.raises(ValueError, match="is not valid now") as mine:
            here.step(actions)
        with pytest.raises(ValueError, match="is not valid now") as theirs:
            there.step(actions)
        assert str(mine.value) in str(theirs.value)
    there.close()
    there.close()
    with pytest.raises(ServiceError, match=r"404: session: '.{8}\.\.\.' is unknown: it was closed"):
        there.reset()


def test_addresses_of_other_services_and_impossible_batches_are_named(service: tuple[str, str]) -> None:
    url, _ = service
    with pytest.raises(ServiceError, match="404: POST /health/v1/sessions: Not Found"):
        offload_rllib.remote_env(f"{url}/health")
    with pytest.raises(ConfigError, match="num_envs must be at least 1, is 0"):
        offload_rllib.remote_vector_env(url, 0)
    with pytest.raises(ConfigError, match=r"num_envs: 5000 is not accepted; accepted: integers from 1 to 1024"):
        offload_rllib.remote_vector_env(url, 5000)
    with pytest.raises(ConfigError, match="token: must be printable ASCII"):
        offload_rllib.remote_env(url, token="ü")  # noqa: S106 - of a test
    batch = offload_rllib.remote_vector_env(url, 2)
    with pytest.raises(ServiceError, match="the first reset must start all environments"):
        batch.reset(environments=np.array([1]))
    batch.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \[7\] is not accepted; accepted: shape \[2"):
        batch.step(np.zeros(7, np.int32))
    with pytest.raises(ValueError, match=r"float64 is not accepted; accepted: integers"):
        batch.step(np.full(2, np.nan))
    assert send(url, "GET", "/health")[0] == 200
