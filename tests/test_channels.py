"""Messages that contend for a channel are sent when the definition of sharing, or of waiting, lets them be sent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.channels import Message, channel_departures
from helpers.environments import ARRIVAL, log_bytes, make_env, refused, small_environment
from scipy import stats

from offload_rllib.config import load_environment
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import EXPIRED, FINISHED, LOST

STEPS = ((0.0, 1.0), (70.0, 0.25), (110.0, 2.0), (111.0, 1e-6), (190.0, 0.5))
# Beyond it tasks may be given to a link that are not on the way any more at the end.
HORIZON_S = 400.0


def star(clients: int, **changes: Any) -> dict[str, Any]:
    """Return clients around a fast server, each of which sends all its tasks there, 0.7 s of airtime a second."""
    links = {"kind": "fixed", "rate_bps": 1000.0, "latency_s": 0.25} | changes.pop("links", {})
    rows = [f"row_{i}" for i in range(clients)]
    return {
        "horizon_s": HORIZON_S,
        "topology": {
            "kind": "manual",
            "nodes": [
                *({"name": name, "instructions_per_second": 1.0, "client": True, "type": "phone"} for name in rows),
                {"name": "server", "instructions_per_second": 2.0, "cores": 64, "type": "server"},
            ],
            "links": [[name, "server"] for name in rows],
        },
        "links": links,
        "service": "parallel",
        "workload": {
            "jobs": {
                "kind": "mix",
                "types": [
                    {"instructions": 1.0, "bits_in": {"exponential": 500.0}, "bits_out": {"exponential": 200.0}},
                ],
            },
            "load": {"tasks_per_second_per_client": 1.0 / clients},
        },
        "decisions": {"when": "arrival", "max_hops": 1},
        "score": {"drop_s": 4000.0},
    } | changes


def sent(environment: dict[str, Any]) -> np.ndarray:
    """Return the log of an episode in which every task is sent to the server."""
    env = make_env(environment, log=True)
    env.play("always_server")
    return env.task_log(0)


def check(departures_s: np.ndarray, times_s: np.ndarray) -> None:
    """Assert that messages left their channel as they should have, as far as the episode goes."""
    known = times_s < HORIZON_S - 1.0
    assert known.sum() > 250
    assert times_s[known] == pytest.approx(departures_s[known], abs=1e-9 * HORIZON_S)


def both_ways(log: np.ndarray, rate_bps: Any = 1000.0, **law: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return when tasks and results should have been sent and were, if one channel takes all of them."""
    done = log[log["outcome"] == FINISHED]
    back_given_s = done["ended_s"] - done["return_s"]
    factors = law.pop("factors", ((0.0, 1.0),))
    given = [
        (float(t), float(b / r), 0)
        for t, b, r in zip(log["created_s"], log["bits_in"], rates(log, rate_bps), strict=True)
    ]
    given += [
        (float(t), float(b / r), 1)
        for t, b, r in zip(back_given_s, done["bits_out"], rates(done, rate_bps), strict=True)
    ]
    order = np.argsort([g[0] for g in given], kind="stable")
    departures_s = np.empty(len(given))
    departures_s[order] = channel_departures([Message(given[i][0], given[i][1], factors=factors) for i in order], **law)
    there_s = np.where(log["outcome"] == FINISHED, log["created_s"] + log["transfer_s"] - 0.25, np.inf)
    return departures_s, np.concatenate([there_s, done["ended_s"] - 0.25])


def rates(log: np.ndarray, rate_bps: Any) -> np.ndarray:
    """Return the rate of each task's link."""
    return np.array([rate_bps[origin] if isinstance(rate_bps, dict) else rate_bps for origin in log["origin"]])


@pytest.mark.parametrize("contention", ["shared", "none", "fifo"])
@pytest.mark.parametrize("varies", [False, True])
def test_every_message_leaves_its_direction_when_the_definition_says(contention: str, varies: bool) -> None:  # noqa: FBT001
    schedule = {"rate_schedule": {"steps": [list(step) for step in STEPS]}} if varies else {}
    log = sent(star(1, links={"contention": contention} | schedule))
    factors = STEPS if varies else ((0.0, 1.0),)
    messages = [
        Message(float(t), float(b / 1000), factors=factors)
        for t, b in zip(log["created_s"], log["bits_in"], strict=True)
    ]
    law = {"shared": {}, "none": {"throughput": None}, "fifo": {"at_once": 1}}[contention]
    departures_s = np.array(channel_departures(messages, **law))
    times_s = np.where(log["transfer_s"] > 0, log["created_s"] + log["transfer_s"] - 0.25, np.inf)
    check(departures_s, times_s)


@pytest.mark.parametrize(("contention", "law"), [("shared", {}), ("fifo", {"at_once": 1})])
def test_a_half_duplex_link_sends_both_ways_over_one_channel(contention: str, law: dict[str, Any]) -> None:
    log = sent(star(1, links={"contention": contention, "channel": "link"}))
    check(*both_ways(log, **law))
    assert (log["return_s"] > 0.25 + log["bits_out"] / 1000 + 1e-6).sum() > 50  # results met other messages


@pytest.mark.parametrize(("contention", "law"), [("shared", {}), ("fifo", {"at_once": 1})])
def test_links_of_a_cell_have_one_channel_whatever_their_rates(contention: str, law: dict[str, Any]) -> None:
    environment = star(3, links={"contention": contention, "channel": "cell", "cell_of": ["server"]})
    environment["link_overrides"] = [{"between": ["row_1", "server"], "rate_bps": 4000.0}]
    log = sent(environment)
    check(*both_ways(log, {0: 1000.0, 1: 4000.0, 2: 1000.0}, **law))
    assert set(log["origin"].tolist()) == {0, 1, 2}


def test_throughput_depends_on_the_number_of_messages() -> None:
    table = [1.0, 1.6, 1.9, 1.5]
    shared = {"contention": "shared", "channel": "cell", "cell_of": ["server"], "throughput": table}
    log = sent(star(3, links=shared))
    check(*both_ways(log, throughput=table))


def test_a_message_that_is_aborted_leaves_its_share_to_the_others() -> None:
    environment = star(1, links={"contention": "shared"})
    environment["workload"] |= {"deadline_s": {"uniform": [0.2, 6.0]}, "load": {"tasks_per_second_per_client": 2.4}}
    environment["workload"]["jobs"]["types"][0]["bits_out"] = 0.0
    log = sent(environment)
    messages = [
        Message(float(t), float(b / 1000), float(d))
        for t, b, d in zip(log["created_s"], log["bits_in"], log["deadline_s"], strict=True)
    ]
    departures_s = np.array(channel_departures(messages))
    there = log["service_s"] > 0
    times_s = np.where(there, log["created_s"] + log["transfer_s"] - 0.25, np.inf)
    check(departures_s, times_s)
    assert (log["outcome"] == EXPIRED).sum() > 100
    aborted = ~there & (log["outcome"] == EXPIRED)
    assert log["ended_s"][aborted] == pytest.approx(log["deadline_s"][aborted])


def test_with_expiry_never_everything_is_sent() -> None:
    environment = star(1, links={"contention": "shared"})
    environment["workload"] |= {"deadline_s": 0.5}
    environment["deadlines"] = {"expiry": "never"}
    log = sent(environment)
    messages = [Message(float(t), float(b / 1000)) for t, b in zip(log["created_s"], log["bits_in"], strict=True)]
    check(
        np.array(channel_departures(messages)),
        np.where(log["service_s"] > 0, log["created_s"] + log["transfer_s"] - 0.25, np.inf),
    )


def test_a_lost_message_is_sent_like_any_other() -> None:
    log = sent(star(1, links={"contention": "shared", "loss_probability": 0.3}))
    lost = (log["outcome"] == LOST) & (log["service_s"] == 0)
    assert 60 < lost.sum() < 180
    messages = [Message(float(t), float(b / 1000)) for t, b in zip(log["created_s"], log["bits_in"], strict=True)]
    check(
        np.array(channel_departures(messages)),
        np.where(log["transfer_s"] > 0, log["created_s"] + log["transfer_s"] - 0.25, np.inf),
    )


REPLICATIONS = 40


def mean_transfer_s(table: list[float] | None, load: float) -> np.ndarray:
    """Return the mean transfer [replications] of exponential messages of 1 s over a shared link."""
    environment = star(1, links={"contention": "shared", "latency_s": 0.0, "throughput": table})
    environment |= {"horizon_s": 60_000.0, "warmup_s": 2_000.0, "drain_s": 1_000.0}
    environment["workload"]["jobs"]["types"] = [{"instructions": 1e-6, "bits_in": {"exponential": 1000.0}}]
    environment["workload"]["load"] = {"tasks_per_second_per_client": load}
    environment["score"] = {"drop_s": 60_000.0}
    env = make_env(environment, REPLICATIONS)
    env.play("always_server")
    metrics = env.state.metrics
    return metrics["transfer_sum_s"][:, 0] / metrics["finished"][:, 0]


def agrees(values: np.ndarray, theory: float) -> None:
    """Assert that theory lies in the 99 % interval of the mean, which is narrower than 1 %."""
    half = stats.t.ppf(0.995, len(values) - 1) * stats.sem(values)
    assert half < 0.01 * theory
    assert abs(values.mean() - theory) < half


def test_a_shared_link_is_the_queue_m_m_1_ps() -> None:
    agrees(mean_transfer_s(None, 0.6), 1 / (1 - 0.6))


def test_a_cell_whose_throughput_depends_on_its_users_is_a_birth_and_death_process() -> None:
    table, load = [1.0, 1.6, 1.3], 0.8
    # In state n, messages end at the rate g(n), g that of the last entry above it; Little's law gives the mean time.
    weights = np.cumprod([load / table[min(n, len(table)) - 1] for n in range(1, 400)])
    mean = (np.arange(1, 400) * weights).sum() / (1 + weights.sum())
    agrees(mean_transfer_s(table, load), mean / load)


def contended(**links: Any) -> dict[str, Any]:
    """Return the small network with links that contend, fade and fail to deliver."""
    environment = small_environment(decisions=ARRIVAL, energy={"kind": "power", "devices": [{"transmit_w": 1.0}]})
    environment["links"] |= {
        "contention": "shared",
        "loss_probability": 0.05,
        "latency_s": {"exponential": 0.05},
    } | links
    return environment


@pytest.mark.parametrize(
    "links",
    [
        {},
        {"channel": "link", "throughput": [1, 1.5]},
        {"rate_schedule": {"steps": [[0, 1], [7, 0.1]], "period_s": 13.0}},
    ],
)
def test_an_episode_has_the_same_bits_in_any_batch(links: dict[str, Any]) -> None:
    logs = set()
    for count, place in ((1, 0), (5, 3)):
        env = make_env(contended(**links), count, log=True)
        keys = held_out_keys(3, count)
        keys[place] = held_out_keys(4, 1)[0]
        for _ in range(2):  # a second episode begins as the first one did
            env.reset(keys)
            env.play("shortest_finish")
            logs.add(log_bytes(env, place))
    assert len(logs) == 1


def test_transmit_energy_is_that_of_the_time_on_the_air() -> None:
    from offload_rllib.simulator.energy import node_energy

    environment = star(
        1,
        links={"contention": "shared"},
        energy={"kind": "power", "devices": [{"transmit_w": 2.0, "transmit_j_per_bit": 0.5}]},
    )
    env = make_env(environment, log=True)
    env.play("always_server")
    log = env.task_log(0)
    messages = [
        Message(float(t), float(b / 1000), HORIZON_S) for t, b in zip(log["created_s"], log["bits_in"], strict=True)
    ]
    on_air_s = np.array(channel_departures(messages)) - log["created_s"]
    used = node_energy(env.scenario.arrays, env.state, 0)["transmit"][0]
    whole = log["bits_in"][log["transfer_s"] > 0].sum()
    assert used == pytest.approx(2.0 * on_air_s.sum() + 0.5 * whole, rel=0.01)
    assert used >= 2.0 * on_air_s.sum() + 0.5 * whole - 1e-6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("links.throughput=[1, 2]", r"throughput needs contention: shared .given: none"),
        ("links={contention: shared, throughput: [1, 3]}", r"2 transfers get 3 times the rate of the link; at most 2"),
        ("links={channel: link}", r"channel: link needs contention: fifo or shared"),
        ("links={contention: fifo, channel: cell}", r"channel: cell and cell_of need each other"),
        ("links={contention: fifo, cell_of: [x]}", r"channel: cell and cell_of need each other"),
        ("links={contention: fifo, channel: cell, cell_of: [node]}", r"would belong to two cells.*link_overrides"),
        ("links={rate_schedule: {steps: [[1, 1]]}}", r"the first step must be at 0 s .given: 1 s"),
        ("links={rate_schedule: {steps: [[0, 1], [5, 1], [5, 2]]}}", r"times must increase: 5 s is not after 5 s"),
        ("links={rate_schedule: {steps: [[0, 1], [5, 0]]}}", r"greater than 0"),
        ("links={rate_schedule: {steps: [[0, 1], [5, 2]], period_s: 5}}", r"period_s .5. must be more than the last"),
        ("links={rate_schedule: {}}", r"give exactly one of: steps, path"),
        ("links={rate_schedule: {steps: [[0, 1]], period_s: 1e-6}}", r"changes of a link in an episode; at most"),
    ],
)
def test_impossible_channels(override: str, message: str) -> None:
    environment = small_environment()
    _, _, value = override.partition("=")
    if value.startswith("{"):
        refused(environment, [f"links={{kind: fixed, rate_bps: 1e6, {value[1:]}"], message)
    else:
        refused(environment, [override], message)


def test_links_of_one_channel_contend_alike() -> None:
    environment = star(2, links={"contention": "fifo", "channel": "cell", "cell_of": ["server"]})
    environment["link_overrides"] = [{"between": ["row_1", "server"], "contention": "shared"}]
    refused(environment, [], r"row_0 - server and row_1 - server contend for one channel.*contention: fifo and shared")
    refused(small_environment(tick_s=1.0), ["links.contention=shared"], r"tick_s: 1: in ticks no link shares")


def test_a_schedule_may_come_from_a_file(tmp_path: Any) -> None:
    path = tmp_path / "rates.csv"
    path.write_text("time_s,factor\n" + "\n".join(f"{t},{f}" for t, f in STEPS) + "\n")
    logs = set()
    for schedule in ({"path": str(path)}, {"steps": [list(step) for step in STEPS]}):
        env = make_env(star(1, links={"rate_schedule": schedule}), log=True)
        env.play("always_server")
        logs.add(log_bytes(env, 0))
    assert len(logs) == 1
    for text, message in (
        ("time_s,factor\n0,1\n1,x\n", r"row 2: column 'factor'"),
        ("t,factor\n0,1\n", r"has the columns time_s, factor"),
    ):
        path.write_text(text)
        refused(star(1, links={"rate_schedule": {"path": str(path)}}), [], message)


def test_plain_environments_have_no_channels() -> None:
    arrays = build_scenario(load_environment(small_environment())).arrays
    assert (arrays.link_law["channel"] == -1).all()
    assert math.prod(arrays.throughput.shape) == 0
