"""Nodes that move: rates follow their distance, they change access points, and results find them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.channels import Message, channel_departures
from helpers.environments import log_bytes, make_env, refused

from offload_rllib.envs.vector import held_out_keys
from offload_rllib.simulator.types import FINISHED, LOST

HORIZON_S, UPDATE_S = 400.0, 2.5
ACCESS = {"left": (0.0, 0.0), "right": (100.0, 0.0)}
# The phone passes both access points and comes back. Before the first row and behind the last it rests.
ROWS = ((3.0, 10.0, 5.0), (150.0, 90.0, 5.0), (200.0, 130.0, 60.0), (201.0, 0.0, 1.0), (350.0, 55.0, -3.0))
RADIO = {"bandwidth_hz": 100.0, "transmit_power_dbm": -65.0}
BACKHAUL_BPS, BACKHAUL_S = 800.0, 0.125


def walk(folder: Path, max_hops: int = 1, **mobility: Any) -> dict[str, Any]:
    """Return a phone that moves between two access points, which are linked over a server."""
    trace = folder / "walk.csv"
    trace.write_text("\n".join(["time_s,node,x_m,y_m", *(f"{t},phone,{x},{y}" for t, x, y in ROWS)]) + "\n")
    points = [
        {"name": name, "type": "point", "instructions_per_second": 4.0, "cores": 64, "position_m": list(place)}
        for name, place in ACCESS.items()
    ]
    return {
        "horizon_s": HORIZON_S,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "phone", "type": "phone", "instructions_per_second": 1.0, "client": True},
                *points,
                {"name": "server", "type": "server", "instructions_per_second": 8.0, "cores": 64},
            ],
            "links": [["left", "server"], ["right", "server"], ["phone", "left"]],
        },
        "links": {"kind": "wireless"} | RADIO,
        "link_overrides": [
            {
                "between_types": ["point", "server"],
                "medium": {"kind": "fixed", "rate_bps": BACKHAUL_BPS, "latency_s": BACKHAUL_S},
            }
        ],
        "mobility": {
            "types": ["phone"],
            "access_points": ["point"],
            "movement": {"kind": "trace", "path": str(trace)},
            "update_s": UPDATE_S,
        }
        | mobility,
        "service": "parallel",
        "workload": {
            "jobs": {
                "kind": "mix",
                "types": [
                    {"instructions": {"exponential": 20.0}, "bits_in": {"exponential": 500.0}, "bits_out": 300.0}
                ],
            },
            "load": {"tasks_per_second_per_client": 1.5},
        },
        "decisions": {"when": "arrival", "max_hops": max_hops},
        "score": {"drop_s": 4000.0},
    }


def position(time_s: float) -> tuple[float, float]:
    """Return where the phone is known to be: where it was at the last update."""
    looked_s = math.floor(time_s / UPDATE_S) * UPDATE_S
    times = [row[0] for row in ROWS]
    return tuple(float(np.interp(looked_s, times, [row[k] for row in ROWS])) for k in (1, 2))  # pyright: ignore[reportReturnType]


def attached(time_s: float) -> str:
    """Return the access point nearest to the phone."""
    return min(ACCESS, key=lambda name: math.dist(position(time_s), ACCESS[name]))


def factors(name: str) -> list[tuple[float, float]]:
    """Return the rate in bit/s of the phone's link to an access point, from when on."""
    steps = []
    for k in range(int(HORIZON_S / UPDATE_S) + 400):
        distance_m = max(math.dist(position(k * UPDATE_S), ACCESS[name]), 1.0)
        gain_db = 20 * math.log10(0.125 / (4 * math.pi * distance_m))
        snr_db = RADIO["transmit_power_dbm"] + gain_db + 174 - 10 * math.log10(RADIO["bandwidth_hz"])
        steps.append((k * UPDATE_S, RADIO["bandwidth_hz"] * math.log2(1 + 10 ** (snr_db / 10))))
    return steps


def over_radio(given_s: float, bits: float, name: str) -> float:
    """Return when a message that is alone is sent."""
    return channel_departures([Message(given_s, bits, factors=RATES[name])])[0]


RATES = {name: factors(name) for name in ACCESS}


def expected(task: np.void) -> tuple[float, float, int]:
    """Return when a task that is sent to its access point is there, when its result is back, and the links it takes."""
    point = attached(task["created_s"])
    there_s = over_radio(task["created_s"], task["bits_in"], point)
    now_s = there_s + task["work"] / 4.0
    hops = 0
    while point != attached(now_s):
        # To the server and to the other access point; from the server it turns back if the phone has.
        now_s += BACKHAUL_S + task["bits_out"] / BACKHAUL_BPS
        now_s += BACKHAUL_S + task["bits_out"] / BACKHAUL_BPS
        point = attached(now_s - BACKHAUL_S - task["bits_out"] / BACKHAUL_BPS)
        hops += 2
    return there_s, over_radio(now_s, task["bits_out"], point), hops


def test_tasks_and_results_travel_as_the_positions_say(tmp_path: Path) -> None:
    env = make_env(walk(tmp_path), log=True)
    env.play("always_server")
    log = env.task_log(0)
    done = log[log["outcome"] == FINISHED]
    times = np.array([expected(task) for task in done])
    assert len(done) > 500
    assert (times[:, 2] > 0).sum() > 20  # were forwarded
    assert done["created_s"] + done["transfer_s"] == pytest.approx(times[:, 0], abs=1e-9 * HORIZON_S)
    assert done["ended_s"] == pytest.approx(times[:, 1], abs=1e-9 * HORIZON_S)
    assert env.state.episode[0]["handovers"] == sum(
        attached(k * UPDATE_S) != attached((k + 1) * UPDATE_S) for k in range(int(HORIZON_S / UPDATE_S))
    )


def test_what_is_on_a_link_that_breaks_is_lost(tmp_path: Path) -> None:
    environment = walk(tmp_path, handover="break_before_make")
    env = make_env(environment, log=True)
    env.play("always_server")
    log = env.task_log(0)
    lost = log[log["outcome"] == LOST]
    changes = [k * UPDATE_S for k in range(1, 161) if attached(k * UPDATE_S) != attached((k - 1) * UPDATE_S)]
    assert len(lost) >= 3
    assert set(lost["ended_s"].tolist()) <= set(changes)
    on_the_way = {
        int(i)
        for i, task in enumerate(log)
        for change_s in changes
        if task["created_s"] < change_s < over_radio(task["created_s"], task["bits_in"], attached(task["created_s"]))
    }
    assert set(np.flatnonzero((log["outcome"] == LOST) & (log["service_s"] == 0)).tolist()) == on_the_way
    assert (lost["service_s"] > 0).any()  # results are lost as well


def test_a_phone_decides_about_the_nearest_access_point_alone(tmp_path: Path) -> None:
    env = make_env(walk(tmp_path, max_hops=2), log=True)
    assert env.num_actions == 2  # whatever the number of access points
    phone = env.agents.index("phone")
    seen = set()
    while not env.truncated[0]:
        assert env.destinations_of(0, phone) == ["phone", attached(env.state.episode[0]["now_s"])]
        if env.deciding[0] == phone:
            assert env.masks[0].tolist() == [1, 1]
        seen.add(env.destinations_of(0, phone)[1])
        env.step(env.heuristic_actions("random"))
    assert seen == set(ACCESS)


def test_a_node_that_is_nearer_by_less_than_the_hysteresis_is_not_changed_to(tmp_path: Path) -> None:
    for hysteresis_m in (0.0, 30.0, 1000.0):
        env = make_env(walk(tmp_path, hysteresis_m=hysteresis_m))
        env.play("local")
        point, count = attached(0.0), 0
        for k in range(int(HORIZON_S / UPDATE_S) + 1):
            place = position(k * UPDATE_S)
            nearest = attached(k * UPDATE_S)
            if math.dist(place, ACCESS[nearest]) + hysteresis_m < math.dist(place, ACCESS[point]):
                point, count = nearest, count + 1
        assert env.state.episode[0]["handovers"] == count
        assert (count > 0) == (hysteresis_m < 100)


def wanderers(**changes: Any) -> dict[str, Any]:
    """Return ten phones on random ways among three access points."""
    environment: dict[str, Any] = {
        "horizon_s": 200.0,
        "topology": {
            "kind": "tiers",
            "area_m": [300.0, 200.0],
            "tiers": [
                {"type": "phone", "nodes": 10, "instructions_per_second": 4e6, "client": True},
                {"type": "point", "nodes": 3, "instructions_per_second": 1e7, "cores": 2},
            ],
        },
        "links": {"kind": "wireless", "bandwidth_hz": 1e6, "transmit_power_dbm": -10.0, "contention": "fifo"},
        "mobility": {
            "types": ["phone"],
            "access_points": ["point"],
            "movement": {"kind": "random_waypoint", "speed_m_per_s": [2.0, 8.0], "pause_s": {"exponential": 5.0}},
            "handover": "break_before_make",
        },
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": {"exponential": 3e6}, "bits_in": 1e6, "bits_out": 1e6}]},
            "load": {"tasks_per_second_per_client": 1.0},
            "deadline_s": {"uniform": [2.0, 10.0]},
        },
        "decisions": {"when": "arrival", "max_hops": 2},
    }
    return environment | changes


def test_wanderers_stay_in_the_area_and_keep_to_their_speed() -> None:
    env = make_env(wanderers(), 3)
    ways: list[np.ndarray] = []
    looked = 0
    while not env.truncated.all():
        env.step(env.heuristic_actions("local"))
        if env.state.episode[0]["moves"] > looked:
            looked = int(env.state.episode[0]["moves"])
            state = env.state.moving[0]
            ways.append(np.stack([np.full(len(state), looked - 1.0), state["x_m"], state["y_m"]], axis=1))
    way = np.array(ways)
    assert way[..., 1].min() >= 0
    assert way[..., 1].max() <= 300
    assert way[..., 2].max() <= 200
    speed = np.linalg.norm(np.diff(way[..., 1:], axis=0), axis=2) / np.diff(way[..., 0], axis=0)
    assert speed.max() <= 8.0 + 1e-9
    moving = speed[(speed > 1.999)]
    assert len(moving) > 0.5 * speed.size
    assert (speed == 0).any()  # pauses
    assert not np.array_equal(env.state.moving[0], env.state.moving[1])


def test_an_episode_has_the_same_bits_in_any_batch_and_its_ways_do_not_depend_on_decisions() -> None:
    logs, ways = set(), set()
    for count, place, rule in ((1, 0, "shortest_finish"), (4, 2, "shortest_finish"), (1, 0, "local")):
        env = make_env(wanderers(), count, log=True)
        keys = held_out_keys(3, count)
        keys[place] = held_out_keys(4, 1)[0]
        for _ in range(2):
            env.reset(keys)
            env.play(rule)
        if rule != "local":
            logs.add(log_bytes(env, place))
        moving = env.state.moving[place]
        ways.add(b"".join(moving[name].tobytes() for name in moving.dtype.names or ()))
    assert len(logs) == 1
    assert len(ways) == 1


@pytest.mark.parametrize("handover", ["make_before_break", "break_before_make"])
def test_tasks_are_conserved_and_times_add_up(handover: str) -> None:
    environment = wanderers()
    environment["mobility"] |= {"handover": handover}
    env = make_env(environment, 2, log=True)
    env.play("random")
    for e in range(2):
        episode, log = env.state.episode[e], env.task_log(e)
        assert episode["handovers"] > 5
        dropped = sum(int(episode[f"dropped_{cause}"]) for cause in ("queue_full", "expired", "lost", "node_failed"))
        inside = int((log["outcome"] == 0).sum())
        assert episode["tasks_made"] == episode["finished"] + dropped + inside
        assert (episode["dropped_lost"] > 0) == (handover == "break_before_make")
        done = log[log["outcome"] == FINISHED]
        parts = sum(done[part] for part in ("holding_s", "waiting_s", "service_s", "transfer_s", "return_s"))
        assert parts == pytest.approx(done["ended_s"] - done["created_s"], abs=1e-9 * 200)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mobility.types=[phon]", r"mobility.types: no node is of type 'phon'. Did you mean 'phone'"),
        ("mobility.access_points=[x]", r"mobility.access_points: no node is of type 'x'"),
        ("mobility.access_points=[phone]", r"mobility.access_points: 'phone' moves itself"),
        ("mobility.movement={kind: random_waypoint, speed_m_per_s: [2, 1]}", r"speed_m_per_s needs slowest <= fastest"),
        ("mobility.movement={kind: random_waypoint, speed_m_per_s: [0, 1]}", r"speed_m_per_s.0: .*greater than 0"),
        ("mobility.movement.speed=1", r"speed: unknown key. Accepted: .*speed_m_per_s"),
        ("topology.resample=episode", r"mobility needs topology.resample: never"),
        ("links.fading=rayleigh", r"fading or shadowing, and a node that moves"),
        ("links.rate_schedule={steps: [[0, 1]]}", r"rate_schedule, and a node that moves"),
        ("links.noise_over=message", r"noise_over: message, and a node that moves"),
        (
            "cloud={vms: 2, instructions_per_second: 1e6, link: {rate_bps: 1e6}}",
            r"cloud.access: a node that moves has links to",
        ),
    ],
)
def test_impossible_movements(override: str, message: str) -> None:
    refused(wanderers(), [override], message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time_s,node,x_m\n", r"has the columns time_s, node, x_m, y_m; has time_s, node, x_m"),
        ("time_s,node,x_m,y_m\n0,server,1,1\n", r"row 1: column 'node': no node that moves is named 'server'"),
        ("time_s,node,x_m,y_m\n5,phone,1,1\n5,phone,1,1\n", r"row 2: column 'time_s': 5 s is not after 5 s of 'phone'"),
        ("time_s,node,x_m,y_m\n5,phone,1\n", r"row 1: has 3 values for 4 columns"),
        ("time_s,node,x_m,y_m\n5,phone,1,far\n", r"row 1: column 'y_m'"),
        ("time_s,node,x_m,y_m\n-1,phone,1,1\n", r"row 1: column 'time_s': '-1'; accepted: numbers from 0 up to 1e.30"),
        ("time_s,node,x_m,y_m\n", r"no rows for node 'phone', which moves"),
    ],
)
def test_impossible_traces(tmp_path: Path, text: str, message: str) -> None:
    environment = walk(tmp_path)
    (tmp_path / "walk.csv").write_text(text)
    refused(environment, [], message)


def test_access_points_must_reach_each_other(tmp_path: Path) -> None:
    environment = walk(tmp_path)
    environment["topology"]["links"] = [["left", "server"], ["phone", "left"], ["phone", "right"]]
    refused(environment, [], r"mobility: no way leads from access point 'right' to 'left'")
