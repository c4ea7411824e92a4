"""The simulator gives every task the fate that a slow, independent model and pencil and paper give it."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from helpers.agreement import KEY, run_reference_and_simulator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offload_rllib.config import load_environment
from offload_rllib.envs.vector import VectorEnv, batch_of
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import EXPIRED, FINISHED, LOST, NODE_FAILED, OPEN, QUEUE_FULL

PARTS = ("holding_s", "waiting_s", "service_s", "transfer_s", "return_s")
MOST_DECISIONS = 20_000  # of an episode here


@dataclass
class Case:
    """A scenario, an episode of it, and where its actions come from."""

    environment: dict[str, Any]
    key: int
    seed: int  # of the actions
    stay_probability: float


def unlike_links(rng: Random, links: Sequence[tuple[int, int]], *, exact: bool, ticks: bool) -> list[dict[str, Any]]:
    """Draw what is different on some directions of some links.

    A result that took the wrong way back would come at the wrong time. Shares of a rate are no powers of two, and in
    ticks nothing is shared.
    """
    kinds = ["none", "fifo", "fifo"] if exact or ticks else ["none", "fifo", "shared"]
    overrides = []
    for a, b in links:
        for source, destination in ((a, b), (b, a)):
            changes: dict[str, Any] = {
                # Powers of two keep exact times exact.
                "rate_bps": 256.0 * 2.0 ** rng.randint(-2, 2),
                "latency_s": rng.choice([0.0, 0.125, 0.5]) if exact else delay(rng),
                "jitter_s": 0.0 if exact else delay(rng),
                "loss_probability": rng.choice([0.0, 0.1, 0.3]),
                "contention": rng.choice(kinds),
            }
            kept = {key: value for key, value in changes.items() if rng.random() < 0.5}
            pair = (f"node_{source}", f"node_{destination}")
            overrides.append({"between": pair, "one_way": True} | kept)
        if not ticks and rng.random() < 0.3:
            both = {"contention": rng.choice(kinds[1:]), "channel": "link"}
            overrides.append({"between": (f"node_{a}", f"node_{b}")} | both)
    return overrides


def delay(rng: Random) -> dict[str, Any]:
    """Draw a delay of any kind."""
    mean = rng.uniform(0.01, 1.0)
    lognormal = {"mean": mean, "cv": rng.uniform(0.1, 1.0), "least": rng.choice([0.0, mean / 2])}
    return rng.choice(
        [{"constant": mean}, {"exponential": mean}, {"uniform": (0.0, 2 * mean)}, {"lognormal": lognormal}]
    )


def failures(rng: Random, interval_s: float, *, exact: bool) -> dict[str, Any]:
    """Draw how nodes fail."""
    up_s = interval_s * rng.choice([4.0, 16.0, 64.0])
    down_s = interval_s * rng.choice([0.0, 0.5, 2.0, 8.0])
    law: dict[str, Any] = {"time_to_failure_s": {"constant": up_s}, "time_to_repair_s": {"constant": down_s}}
    if not exact:
        law = {"time_to_failure_s": {"exponential": up_s}, "time_to_repair_s": {"uniform": (0.0, 2 * down_s)}}
    return {"tasks": rng.choice(["lost", "returned"]), "laws": [law]}


def account(rng: Random) -> dict[str, Any]:
    """Draw an account of energy."""
    if rng.random() < 0.3:
        return {"kind": "peersimgym", "cost": rng.uniform(0.0, 10.0)}
    uses = ("idle_w", "core_busy_w", "transmit_w", "transmit_j_per_bit")
    return {"kind": "power", "devices": [{use: rng.uniform(0.0, 3.0) for use in uses}]}


def exact_types(rng: Random, interval_s: float) -> list[dict[str, Any]]:
    """Draw task types whose times are multiples of an eighth of the interval: many events fall on one instant."""
    lengths = [0.0, 0.0, 0.125, 0.25, 0.5, 1.0, 1.5]
    return [
        {
            "weight": rng.choice([1.0, 3.0]),
            "instructions": {"constant": 64 * interval_s * rng.choice([0.5, 1.0, 2.0, 3.0])},
            "bits_in": {"constant": 256 * interval_s * rng.choice(lengths)},
            "bits_out": {"constant": 256 * interval_s * rng.choice(lengths)},
        }
        for _ in range(rng.randint(1, 2))
    ]


def distribution(rng: Random, mean: float) -> dict[str, Any]:
    """Draw a distribution whose mean is between a fifth and twice the one given."""
    mean *= rng.uniform(0.2, 2.0)
    low = rng.random()
    return rng.choice([{"constant": mean}, {"exponential": mean}, {"uniform": (mean * low, mean * (2 - low))}])


def rough_types(rng: Random, interval_s: float) -> list[dict[str, Any]]:
    """Draw task types of any distribution."""
    return [
        {
            "weight": rng.uniform(0.1, 5.0),
            "instructions": distribution(rng, 64 * interval_s),
            "cycles_per_instruction": rng.choice([1.0, 1.7]),
            "bits_in": distribution(rng, 128 * interval_s),
            "bits_out": distribution(rng, 128 * interval_s),
        }
        for _ in range(rng.randint(1, 3))
    ]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a small network under some load.

    Hypothesis draws, and shrinks, the size. The rest follows from a hash of its draws: most of its examples are small
    changes to one before, and would be nearly the same episode.
    """
    count = draw(st.integers(2, 6))
    steps = draw(st.sampled_from([20, 100, 200]))
    rng = Random(repr((count, steps, draw(st.integers(0, 2**32 - 1)))))  # noqa: S311  # no secrets here
    exact, bounded = rng.random() < 0.5, rng.random() < 0.5
    expiry = rng.choice(["never", "queued", "abort"])
    has_deadline = expiry == "queued" or rng.random() < 0.7
    service = rng.choice(["pooled", "parallel"])
    max_hops = rng.randint(1, 3)
    interval_s = rng.choice([0.25, 1.0, 2.0] if exact else [0.1, 0.3, 1.0, 1.7])
    client = rng.randrange(count)  # at least this one
    nodes = [
        {
            "name": f"node_{i}",
            "instructions_per_second": rng.choice([32.0, 64.0, 128.0]) if exact else rng.uniform(20.0, 200.0),
            "cores": rng.randint(1, 4),
            "queue_capacity": rng.choice([None, 1, 2, 4]) if bounded else None,
            "client": i == client or rng.random() < 0.5,
        }
        for i in range(count)
    ]
    # A random tree, so that the network is in one piece, and more links.
    links = {(rng.randrange(i), i) for i in range(1, count)}
    links |= {pair for pair in combinations(range(count), 2) if rng.random() < 0.25}
    latency = rng.choice([0.0, 0.125, 1.0]) if exact else rng.choice([0.0, rng.uniform(0.0, 1.5)])
    workload: dict[str, Any] = {
        "jobs": {"kind": "mix", "types": (exact_types if exact else rough_types)(rng, interval_s)},
        "load": {"tasks_per_second_per_client": rng.uniform(0.2, 1.5) / interval_s},
    }
    if has_deadline:
        workload["deadline_s"] = distribution(rng, interval_s * rng.choice([2.0, 5.0, 10.0, 20.0]))
    grace_s = interval_s * rng.choice([0.0, 0.5, 2.0]) if expiry == "queued" else 0.0
    tick_s = interval_s / rng.choice([1, 2, 4]) if rng.random() < 0.25 else None
    unusual: dict[str, Any] = {}
    if rng.random() < 0.7:
        if rng.random() < 0.7:
            unusual["link_overrides"] = unlike_links(rng, sorted(links), exact=exact, ticks=tick_s is not None)
        if rng.random() < 0.7:
            unusual["failures"] = failures(rng, interval_s, exact=exact)
        if rng.random() < 0.5:
            unusual["energy"] = account(rng)
    # EDF needs deadlines, so it is drawn twice as often where there are some.
    disciplines = ["fifo", "lifo", "sjf", "priority", *(["edf", "edf"] if has_deadline else [])]
    cloud = None
    if rng.random() < 0.4:
        cloud = {
            "vms": rng.randint(1, 3),
            "instructions_per_second": 32.0 if exact else rng.uniform(10.0, 100.0),
            "queue": rng.choice(disciplines),
            "access": rng.choice(["all", {"nodes": ["node_0"]}]),
            "link": {"rate_bps": 512.0, "latency_s": interval_s * rng.choice([0.0, 0.25, 1.0])},
        }
    case = Case(
        environment={
            "horizon_s": interval_s * steps,
            "topology": {
                "kind": "manual",
                "nodes": nodes,
                "links": [(f"node_{a}", f"node_{b}") for a, b in sorted(links)],
            },
            "links": {
                "kind": "fixed",
                "rate_bps": 256.0 if exact else rng.uniform(64.0, 2048.0),
                "latency_s": interval_s * latency,
            },
            "service": service if tick_s is None else "pooled",
            "tick_s": tick_s,
            "tick_order": "random" if tick_s is None else rng.choice(["random", "random", "fixed"]),
            "queue": rng.choice(disciplines),
            "cloud": cloud,
            "workload": workload,
            "deadlines": {"expiry": expiry, "grace_s": grace_s},
            "score": {"drop_s": interval_s * steps},
            "decisions": {
                "when": "interval",
                "interval_s": interval_s,
                "max_hops": max_hops,
                "offer": rng.choice(["arrival", "arrival", "newest"]),
            },
            # Broadcasts cost PeersimGym's energy, and the reference has none.
            "information": {"kind": "fresh", "message_bits": rng.choice([0.0, 32.0])},
            **unusual,
        },
        key=rng.getrandbits(64),
        seed=rng.getrandbits(32),
        stay_probability=rng.choice([0.0, 0.3, 0.6]),
    )
    for node in nodes if rng.random() < 0.3 else ():
        node["queue_capacity_bits"] = interval_s * rng.choice([256.0, 512.0])
    # Shares of cores are no multiples of anything.
    if not exact and tick_s is None and rng.random() < 0.5:
        share_cores(rng, case.environment)
    give_priorities(rng, case.environment)
    return case


def give_priorities(rng: Random, environment: dict[str, Any]) -> None:
    """Give the types of tasks priorities, some of them the same, where a queue is ordered by them."""
    cloud = environment["cloud"]
    if "priority" in (environment["queue"], cloud["queue"] if cloud is not None else None):
        types = range(len(environment["workload"]["jobs"]["types"]))
        environment["priorities"] = {f"type_{kind}": rng.randint(-1, 1) for kind in types}


def share_cores(rng: Random, environment: dict[str, Any]) -> None:
    """Let the nodes of an environment, or its cloud too, share their cores."""
    tasks_per_core = rng.choice([None, 2, 3])
    environment |= {"service": "shared", "tasks_per_core": tasks_per_core}
    if tasks_per_core is None:
        environment |= {"queue": "fifo", "decisions": environment["decisions"] | {"offer": "arrival"}}
    if environment["cloud"] is not None and rng.random() < 0.7:
        environment["cloud"] |= {"service": "shared", "tasks_per_core": rng.choice([1, 2])}


@pytest.mark.parametrize("when", ["interval", "arrival", "routed"])
def test_every_task_meets_the_fate_that_the_reference_gives_it(when: str) -> None:
    at_once = when != "interval"
    seen: Counter[int] = Counter()
    hops: Counter[int] = Counter()

    features: Counter[tuple[str, bool]] = Counter()

    @settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(cases())
    def compare(case: Case) -> None:
        if at_once:
            hops_allowed = case.environment["decisions"]["max_hops"]
            case.environment |= {"decisions": {"when": "arrival", "max_hops": hops_allowed}}
            case.environment |= {"tick_s": None, "tick_order": "random"}
        if when == "routed":
            reach = Random(case.seed).choice([None, None, 2])  # noqa: S311  # no secrets here
            case.environment["decisions"] |= {"destinations": "routed", "reach_hops": reach}
        env = batch_of(build_scenario(load_environment(case.environment)), 1, log=True)
        rng = np.random.default_rng(case.seed)
        shape = MOST_DECISIONS if at_once else (env.steps_per_episode or 0, len(env.agents))
        actions = rng.integers(1, env.num_actions, shape)
        actions[rng.random(shape) < case.stay_probability] = 0
        # One in ten is anything from one below to one above what exists.
        actions = np.where(rng.random(shape) < 0.1, rng.integers(-1, env.num_actions + 1, shape), actions)
        log = run_reference_and_simulator(env, case.key, actions)
        if at_once:
            assert (log["holding_s"] == 0).all()
        finished = log[log["outcome"] == FINISHED]
        response_s = finished["ended_s"] - finished["created_s"]
        parts_s = sum(finished[part] for part in PARTS)
        assert (np.abs(response_s - parts_s) <= 1e-9 * np.maximum(1.0, finished["ended_s"])).all()
        config = env.scenario.config
        waited = int((log["waiting_s"] > 0).sum())
        if config.queue != "priority" or len(set(config.priorities.values())) > 1:
            features[config.queue, config.decisions.offer == "newest"] += waited
        if config.service == "shared":
            features["shared", config.tasks_per_core is None] += len(finished)
        features["ticks", config.tick_s is not None] += len(finished)
        law = env.scenario.arrays.link_law
        for kind, exists in (
            ("shared link", law["throughputs"].any()),
            ("half-duplex", (law["queue"] != np.arange(len(law))).any()),
        ):
            features[kind, bool(exists)] += len(finished)
        features["cloud", True] += int((log["node"] == len(case.environment["topology"]["nodes"])).sum())
        features["legs", True] += int((env.state.leg[0] > 1).sum()) if env.state.leg.size else 0
        seen.update(log["outcome"].tolist())
        hops.update(finished["hops"].tolist())

    compare()
    # Agreement says nothing about what never happened.
    assert min(seen[outcome] for outcome in (OPEN, FINISHED, QUEUE_FULL, EXPIRED, LOST, NODE_FAILED)) >= 50, seen
    assert min(hops[n] for n in range(4)) >= 50, hops
    offers = (False,) if at_once else (False, True)
    waited_in = [features[queue, newest] for queue in ("fifo", "lifo", "edf", "sjf", "priority") for newest in offers]
    assert min(*waited_in, features["cloud", True]) >= 100, features
    assert min(features["shared", True], features["shared", False]) >= 100, features
    assert at_once or features["ticks", True] >= 100, features
    assert min(features["shared link", True], features["half-duplex", True]) >= 100, features
    assert when != "routed" or features["legs", True] >= 100, features


def line(names: str, **changes: Any) -> dict[str, Any]:
    """Return nodes in a line, the first with a client, the last out of reach of further hops.

    Speeds are 1 instruction per second, agents decide every second, links have a latency of 1/4 s and 1024 bit/s.
    """
    environment: dict[str, Any] = {
        "horizon_s": 60.0,
        "topology": {
            "kind": "manual",
            "nodes": [{"name": name, "instructions_per_second": 1.0, "client": name == names[0]} for name in names],
            "links": list(pairwise(names)),
        },
        "links": {"kind": "fixed", "rate_bps": 1024.0, "latency_s": 0.25},
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": 2.0}]},
            "load": {"tasks_per_second_per_client": 0.2},
        },
        "decisions": {"when": "interval", "max_hops": len(names) - 1},
    }
    return environment | changes


def run_always(environment: dict[str, Any], *actions: int) -> np.ndarray:
    """Let every agent repeat its action through an episode, on the simulator and the reference; return the log."""
    env = VectorEnv(build_scenario(load_environment(environment)), 1, log=True)
    return run_reference_and_simulator(env, KEY, np.tile(actions, (env.steps_per_episode, 1)))


def test_a_task_sent_over_two_links() -> None:
    environment = line("abc")
    environment["workload"]["jobs"]["types"] = [{"instructions": 3.0, "bits_in": 512.0, "bits_out": 256.0}]
    environment["topology"]["nodes"][2]["cores"] = 2
    # At b, neighbour 1 is a and neighbour 2 is c. There the second hop was the last: c does not hold.
    task = run_always(environment, 1, 2)[0]
    decided_s = math.ceil(task["created_s"])
    assert (task["outcome"], task["hops"], task["node"]) == (FINISHED, 2, 2)
    assert task["holding_s"] == pytest.approx(decided_s - task["created_s"] + 0.25, rel=1e-12)
    assert task["transfer_s"] == 2 * (0.25 + 0.5)
    assert task["waiting_s"] == 0.0
    assert task["service_s"] == 1.5  # both cores of c
    assert task["return_s"] == 2 * (0.25 + 0.25)
    # At b from 0.75 to the next decision, at c from 1.75 to 3.25.
    assert task["ended_s"] == decided_s + 4.25


@pytest.mark.parametrize("service", ["pooled", "parallel"])
def test_tasks_queue_first_in_first_out(service: str) -> None:
    environment = line("ab", service=service, horizon_s=400.0)
    environment["workload"]["jobs"]["types"] = [{"instructions": {"exponential": 3.0}}]
    environment["workload"]["load"]["tasks_per_second_per_client"] = 0.6
    environment["topology"]["nodes"][1]["cores"] = 2
    log = run_always(environment, 1)
    free_s = [0.0] if service == "pooled" else [0.0, 0.0]
    speed = 2.0 if service == "pooled" else 1.0
    decided_s = 0.0
    for task in log:
        decided_s = max(decided_s + 1, math.ceil(task["created_s"]))
        began_s = max(decided_s + 0.25, heapq.heappop(free_s))
        served_s = began_s + task["work"] / speed
        heapq.heappush(free_s, served_s)
        if served_s + 0.25 <= 400.0:
            assert task["outcome"] == FINISHED
            assert task["waiting_s"] == pytest.approx(began_s - decided_s - 0.25, abs=1e-9)
            assert task["ended_s"] == pytest.approx(served_s + 0.25, abs=1e-9)
        else:
            assert task["outcome"] == OPEN
            assert task["ended_s"] == 400.0
    assert (log["waiting_s"] > 0).sum() > 50


# At 3 s a place is freed at the very instant at which the third task after the one in service arrives.
@pytest.mark.parametrize(("service_s", "accepted"), [(2.5, 3), (3.0, 3), (3.0625, 4)])
def test_a_full_node_drops_what_arrives_until_a_place_is_free(service_s: float, accepted: int) -> None:
    environment = line("ab", score={"drop_s": 60})
    environment["workload"]["jobs"]["types"] = [{"instructions": service_s}]
    environment["workload"]["load"]["tasks_per_second_per_client"] = 20.0  # a always has a task to send
    environment["topology"]["nodes"][1]["queue_capacity"] = 1
    log = run_always(environment, 1)
    assert log["created_s"][0] < 1.0
    for number, task in enumerate(log[:50]):
        arrived_s = number + 1.25
        if number % accepted == 0:
            assert (task["outcome"], task["ended_s"]) == (FINISHED, arrived_s + service_s + 0.25)
        else:
            assert (task["outcome"], task["ended_s"], task["node"]) == (QUEUE_FULL, arrived_s, 1)


def test_tasks_that_travel_too_often_are_not_held() -> None:
    environment = line("ab", decisions={"when": "interval", "max_hops": 3})
    # Both agents always send to each other: the third hop ends at b, where the task is served at once.
    task = run_always(environment, 1, 1)[0]
    decided_s = math.ceil(task["created_s"])
    assert (task["outcome"], task["hops"], task["node"]) == (FINISHED, 3, 1)
    assert task["ended_s"] == decided_s + 1 + 1 + 0.25 + 2 + 3 * 0.25
    assert task["holding_s"] == pytest.approx(decided_s - task["created_s"] + 2 * 0.75, rel=1e-12)


KEEP, SEND = 0, 1


@pytest.mark.parametrize(
    ("expiry", "grace_s", "action", "expires_s", "outcome", "ended_s", "node"),
    [
        # A task decided at 0 is served from 0 to 2, or arrives at 1/4, is served to 9/4 and is back at 10/4.
        pytest.param("abort", 0.0, KEEP, 0.0, EXPIRED, 0.0, 0, id="expiry goes before a decision"),
        pytest.param("abort", 0.0, KEEP, 2.0, FINISHED, 2.0, 0, id="the end of service goes before expiry"),
        pytest.param("abort", 0.0, KEEP, 1.875, EXPIRED, 1.875, 0, id="a task in service is aborted"),
        pytest.param("abort", 0.0, SEND, 0.25, EXPIRED, 0.25, 0, id="expiry goes before an arrival"),
        pytest.param("abort", 0.0, SEND, 0.125, EXPIRED, 0.125, 0, id="a task on a link is aborted"),
        pytest.param("abort", 0.0, SEND, 2.25, EXPIRED, 2.25, 1, id="a deadline covers the return"),
        pytest.param("abort", 0.0, SEND, 2.5, FINISHED, 2.5, 1, id="a result goes before expiry"),
        pytest.param("queued", 0.0, KEEP, 0.0, EXPIRED, 0.0, 0, id="a held task expires"),
        pytest.param("queued", 0.0, KEEP, 0.125, FINISHED, 2.0, 0, id="a task in service is not touched"),
        pytest.param("queued", 0.0, SEND, 0.125, EXPIRED, 0.25, 1, id="a late task is not let in"),
        pytest.param("queued", 0.125, SEND, 0.25, EXPIRED, 0.25, 1, id="grace ends at the arrival"),
        pytest.param("queued", 0.125, SEND, 0.3125, FINISHED, 2.5, 1, id="grace ends after the arrival"),
        pytest.param("never", 0.0, SEND, 0.0, FINISHED, 2.5, 1, id="a late task finishes"),
    ],
)
def test_deadlines(
    expiry: str, grace_s: float, action: int, expires_s: float, outcome: int, ended_s: float, node: int
) -> None:
    environment = line("ab", deadlines={"expiry": expiry, "grace_s": grace_s}, score={"drop_s": 60})
    created_s = float(run_always(line("ab"), KEEP)["created_s"][0])
    decided_s = math.ceil(created_s)
    environment["workload"]["deadline_s"] = decided_s + expires_s - grace_s - created_s
    task = run_always(environment, action)[0]
    assert task["created_s"] == created_s
    assert task["deadline_s"] + grace_s == decided_s + expires_s  # without rounding, or nothing here falls together
    assert task["outcome"] == outcome
    assert task["ended_s"] == decided_s + ended_s
    assert task["node"] == node
