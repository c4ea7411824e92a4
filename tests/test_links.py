"""Links take, lose and delay what they are given as their configuration says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.environments import log_bytes, make_env, refused, small_environment
from scipy import stats

from offload_rllib.config import load_environment
from offload_rllib.config.duration import Duration
from offload_rllib.config.links import Fibre, Wireless
from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.radio import link_rates_and_latencies, wireless_rate_bps
from offload_rllib.simulator.batch import env_slice
from offload_rllib.simulator.information import estimate, known, offered
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import FINISHED, LOST, Scenario


def pair(**links: Any) -> dict[str, Any]:
    """Return a client's node that is full of tasks, linked to a fast server; the node's agent can send one a second."""
    return {
        "horizon_s": 400.0,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "a", "instructions_per_second": 1.0, "client": True, "position_m": (0.0, 0.0)},
                {"name": "b", "instructions_per_second": 1e6, "type": "server", "position_m": (50.0, 0.0)},
            ],
            "links": [["a", "b"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1000.0} | links,
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": 1.0, "bits_in": 500.0, "bits_out": 100.0}]},
            "load": {"tasks_per_second_per_client": 3.0},
        },
        "decisions": {"when": "interval", "max_hops": 1},
        "score": {"drop_s": 4000.0},
    }


def play(environment: dict[str, Any], action: int = 1) -> VectorEnv:
    """Let every agent repeat an action through one episode."""
    env = make_env(environment, log=True)
    while not env.step(np.full(env.rewards.shape, action)):
        pass
    return env


def finished(env: VectorEnv) -> np.ndarray:
    """Return the log of the tasks that finished."""
    log = env.task_log(0)
    return log[log["outcome"] == FINISHED]


def test_fibre_has_the_published_rate_and_the_speed_of_light() -> None:
    network = build_scenario(load_environment(pair())).network
    rates_bps, delays_s = link_rates_and_latencies(Fibre(kind="fibre"), network)
    # 2 MHz at 45 dB: 2e6 log2(1 + 10^4.5).
    assert rates_bps.ravel() == pytest.approx([29.9e6] * 2, rel=1e-3)
    assert (delays_s == 0.0).all()
    far = Fibre(kind="fibre", snr_db=30.0, bandwidth_hz=1e9, propagation_m_per_s=2e8)
    rates_bps, delays_s = link_rates_and_latencies(far, network)
    assert rates_bps.ravel() == pytest.approx([1e9 * math.log2(1001)] * 2)
    assert delays_s.ravel() == pytest.approx([50 / 2e8] * 2)


def test_noise_over_the_message_is_the_published_formula() -> None:
    environment = pair(kind="wireless", noise_over="message", transmit_power_dbm=20.0, bandwidth_hz=2e6)
    del environment["links"]["rate_bps"]
    for megabytes in (1.0, 38.0):
        bits = 8e6 * megabytes
        environment["workload"]["jobs"]["types"][0] |= {"bits_in": bits, "bits_out": 0.0}
        snr_db = 20 + 10 * math.log10(0.125**2 / (16 * math.pi**2)) - 20 * math.log10(50) + 174 - 10 * math.log10(bits)
        expected_s = bits / (2e6 * math.log2(1 + 10 ** (snr_db / 10)))
        assert finished(play(environment))["transfer_s"] == pytest.approx(expected_s, rel=1e-9)
        plain_s = bits / wireless_rate_bps(Wireless(kind="wireless"), 50)
        assert expected_s > plain_s  # the message has more bits than the band has hertz


@pytest.mark.parametrize(
    ("latency", "distribution"),
    [
        ({"exponential": 0.3}, stats.expon(scale=0.3)),
        ({"uniform": [0.1, 0.5]}, stats.uniform(0.1, 0.4)),
        # Ether's wireless LAN, and its shape, loc and scale.
        ({"lognormal": {"mean": 5.18e-3, "cv": 0.544, "least": 1.18e-3}}, stats.lognorm(0.635, 1.18e-3, 3.27e-3)),
    ],
)
@pytest.mark.parametrize("key", ["latency_s", "jitter_s"])
def test_latencies_and_jitters_have_their_distribution(key: str, latency: dict[str, Any], distribution: Any) -> None:
    assert Duration.model_validate(latency).mean == pytest.approx(distribution.mean(), rel=1e-3)
    environment = pair(**{key: latency}) | {"horizon_s": 4000.0}
    log = finished(play(environment))
    there_s, back_s = log["transfer_s"] - 0.5, log["return_s"] - 0.1
    assert len(log) > 3900
    for drawn_s in (there_s, back_s):
        assert stats.kstest(drawn_s, distribution.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(stats.rankdata(there_s), stats.rankdata(back_s))[0, 1]) < 0.06


def test_draws_of_links_do_not_depend_on_the_batch() -> None:
    environment = small_environment()
    environment["links"] |= {
        "latency_s": {"lognormal": {"mean": 0.12, "cv": 0.66}},
        "loss_probability": 0.1,
        "contention": "fifo",
    }
    logs = []
    for count, place in ((1, 0), (16, 9)):
        env = make_env(environment, count, log=True)
        keys = held_out_keys(3, count)
        keys[place] = held_out_keys(4, 1)[0]
        env.reset(keys)
        while not env.step(env.heuristic_actions("random")):
            pass
        logs.append(log_bytes(env, place))
    assert logs[0] == logs[1]
    assert (env.task_log(place)["outcome"] == LOST).any()


def test_a_link_with_contention_sends_one_message_at_a_time_and_in_order() -> None:
    # Half of the tasks take longer to send than the second after which the next one comes.
    environment = pair(contention="fifo", latency_s=0.25)
    environment["workload"]["jobs"]["types"] = [{"instructions": 1.0, "bits_in": {"exponential": 900.0}}]
    env = play(environment)
    free_s, queued = 0.0, 0
    for number, task in enumerate(finished(env)):
        decided_s = number + 1.0
        queued += free_s > decided_s
        free_s = max(free_s, decided_s) + task["bits_in"] / 1000
        assert task["transfer_s"] == pytest.approx(free_s + 0.25 - decided_s, abs=1e-9)
    assert queued > 100


def test_results_share_their_direction_of_a_link_with_tasks() -> None:
    environment = pair(contention="fifo")
    environment["workload"]["jobs"]["types"] = [{"instructions": 1.0, "bits_in": 300.0, "bits_out": 2000.0}]
    log = finished(play(environment))
    # A result takes 2 s and one comes every second: the n-th waits for n others.
    assert log["return_s"][:50] == pytest.approx(2.0 + np.arange(50), abs=1e-4)
    environment["links"]["contention"] = "none"
    assert finished(play(environment))["return_s"] == pytest.approx(2.0)


def test_a_task_that_is_aborted_frees_its_link() -> None:
    environment = pair(contention="fifo")
    environment["workload"]["jobs"]["types"] = [
        {"weight": 1, "instructions": 1.0, "bits_in": 1e9},
        {"weight": 9, "instructions": 1.0, "bits_in": 100.0},
    ]
    environment["workload"]["deadline_s"] = 8.0
    environment["workload"]["load"]["tasks_per_second_per_client"] = 0.5
    log = play(environment).task_log(0)
    endless = log["bits_in"] > 1e6
    assert endless.sum() > 10
    assert not (log["outcome"][endless] == FINISHED).any()
    assert (log["outcome"][~endless] == FINISHED).sum() > 50
    waited = log["transfer_s"][(log["outcome"] == FINISHED)] > 1
    assert waited.any()


def test_lost_tasks_and_results_are_dropped_with_their_cause() -> None:
    probability = 0.2
    env = play(pair(loss_probability=probability) | {"horizon_s": 4000.0})
    log = env.task_log(0)
    lost = log[log["outcome"] == LOST]
    on_the_way = lost["service_s"] == 0
    sent = len(finished(env)) + len(lost)
    # Both the task and its result must come through.
    for count, theory in ((on_the_way.sum(), probability), ((~on_the_way).sum(), probability * (1 - probability))):
        assert stats.binomtest(int(count), sent, theory).pvalue > 1e-3
    assert lost["transfer_s"] == pytest.approx(0.5)  # it ends when it would have arrived
    episode = env.state.episode[0]
    assert episode["dropped_lost"] == len(lost)


def test_what_a_link_lost_is_not_thought_to_be_on_its_way() -> None:
    environment = pair(loss_probability=0.5) | {"information": {"kind": "fresh"}}
    env = make_env(environment)
    for _ in range(300):
        env.step(np.ones(env.rewards.shape))
    link = env.state.link[0, 0]
    assert link["sent"] > 250
    assert link["sent"] - link["arrived"] <= 1


@kernel
def _expected_transfer(scenario, state, agent, action):
    environment = env_slice(state, 0)
    there = known(scenario, environment, agent, action, environment.episode[0].now_s)
    return estimate(scenario, environment, agent, action, there, offered(scenario, environment, agent)).transfer_s


def expected_transfer_s(env: VectorEnv, arrays: Scenario) -> float:
    """Return what agent 0 expects of sending the task on offer."""
    return _expected_transfer(arrays, env.state, 0, 1)


def test_estimates_know_the_own_link_and_mean_latencies() -> None:
    env = make_env(pair(contention="fifo", latency_s={"exponential": 0.3}, jitter_s={"uniform": [0.0, 0.2]}))
    env.scenario.arrays.link["seconds_per_bit"] *= 4  # a task takes 2 s to send
    env.step(np.zeros(env.rewards.shape))
    assert expected_transfer_s(env, env.scenario.arrays) == pytest.approx(2 + 0.4)
    env.step(np.ones(env.rewards.shape))
    assert expected_transfer_s(env, env.scenario.arrays) == pytest.approx(1 + 2 + 0.4)
    env.step(np.ones(env.rewards.shape))
    assert expected_transfer_s(env, env.scenario.arrays) == pytest.approx(2 + 2 + 0.4)


def test_the_reverse_of_a_link_leads_back() -> None:
    link = build_scenario(load_environment(small_environment())).arrays.link
    back = link[link["reverse"]]
    assert back["source"].tolist() == link["destination"].tolist()
    assert back["destination"].tolist() == link["source"].tolist()
    assert (back["source"] != link["source"]).all()


def test_overrides_reach_the_links_that_they_name() -> None:
    environment = small_environment()
    environment["topology"]["nodes"][3]["type"] = "server"
    environment["link_overrides"] = [
        {"between_types": ["server", "node"], "medium": {"kind": "fibre", "bandwidth_hz": 1e9, "contention": "fifo"}},
        {"between": ["d", "a"], "one_way": True, "rate_bps": 5e6, "loss_probability": 0.25},
        {"between": ["b", "a"], "latency_s": 0.5},
    ]
    scenario = build_scenario(load_environment(environment))
    names = [node.name for node in scenario.network.nodes]
    found = {
        names[link["source"]] + names[link["destination"]]: (
            round(1 / link["seconds_per_bit"]),
            float(link["latency_s"]),
            float(law["loss_probability"]),
            bool(law["contention"]),
        )
        for link, law in zip(scenario.arrays.link, scenario.arrays.link_law, strict=True)
    }
    fibre = round(1e9 * math.log2(1 + 10**4.5))
    assert found == {
        "ab": (1e6, 0.5, 0.0, False),
        "ba": (1e6, 0.5, 0.0, False),
        "bc": (1e6, 0.05, 0.0, False),
        "cb": (1e6, 0.05, 0.0, False),
        "cd": (fibre, 0.0, 0.0, True),
        "dc": (fibre, 0.0, 0.0, True),
        "ad": (fibre, 0.0, 0.0, True),
        "da": (5e6, 0.0, 0.25, True),
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("links.contention=lifo", r"links.contention: .*'none', 'fifo' or 'shared'.*lifo"),
        ("links.loss_probability=1", r"links.loss_probability: .*less than 1 .*1"),
        ("links.latency_s={lognormal: {cv: 1}}", r"latency_s.lognormal.mean: missing"),
        ("links.latency_s={lognormal: {mean: 1, least: 2}}", r"latency_s.lognormal: .*needs least < mean"),
        ("links.latency_s={lognormal: {mean: {per_episode: [1, 2]}}}", r"latency_s: .*durations have no per_episode"),
        ("links.latency_s={uniform: [2, 1]}", r"latency_s: uniform needs low <= high"),
        ("links.latency_s={mean: 1}", r"latency_s.mean: unknown key.*Accepted: constant, exponential"),
        ("links.latency_s=-1", r"latency_s.*greater than or equal to 0"),
        ("link_overrides=[{rate_bps: 1}]", r"link_overrides.0: give exactly one of: between, between_types"),
        ("link_overrides=[{between: [a, c]}]", r"link_overrides.0: no link a - c. Accepted, .*: a - b, a - d, b - c"),
        ("link_overrides=[{between_types: [x, y]}]", r"no link x - y between device types. Accepted, .*: node - node"),
        ("link_overrides=[{between: [a, b], rate: 1}]", r"rate: unknown key. Did you mean 'rate_bps'"),
    ],
)
def test_impossible_links(override: str, message: str) -> None:
    refused(small_environment(), [override], message)


def test_a_background_load_is_the_mean_delay_of_an_m_m_1_queue() -> None:
    rate_bps, bits, load = 1000.0, 500.0, 0.6
    mu = rate_bps / bits
    environment = pair(latency_s=0.25)
    environment["link_overrides"] = [{"between": ["a", "b"], "one_way": True, "background_load": load}]
    done = finished(play(environment))
    assert len(done) > 100
    assert done["transfer_s"] == pytest.approx(0.25 + 1 / (mu - load * mu), abs=1e-9)
    assert done["return_s"] == pytest.approx(0.25 + 100.0 / rate_bps, abs=1e-9)
    # Everywhere, and for all that nodes expect.
    arrays = build_scenario(load_environment(pair(background_load=0.5))).arrays
    assert arrays.link["seconds_per_bit"].tolist() == [1 / 500.0] * 2


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ({"background_load": 1.0}, "background_load.*less than 1"),
        ({"kind": "wireless", "fading": "rayleigh", "background_load": 0.1}, "background_load: 0.1 on the link a - b"),
        ({"kind": "wireless", "noise_over": "message", "background_load": 0.1}, "accepted there: 0"),
    ],
)
def test_impossible_background_loads(links: dict[str, Any], message: str) -> None:
    environment = pair(**links)
    if "kind" in links:
        del environment["links"]["rate_bps"]
    refused(environment, [], message)
