"""A node of a testbed computes what the simulator computes, from the same knowledge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import at_once
from helpers.information import what_is_known
from helpers.policies import kept

from offload_rllib.config import load_environment
from offload_rllib.config.policy import Network
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.node_view import Heard, NodeView, Resident, of_one_node
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.policies.portable import PortablePolicy, Shape, scores
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.heuristics import HEURISTICS, SHORTEST_FINISH
from offload_rllib.simulator.types import EXPIRY_ABORT, NONE, SERVED, WAITING

KEY = int(held_out_keys(0, 1)[0])


def _in_order(env: ArrivalEnv, n: int) -> tuple[list[tuple[Resident, float]], list[Resident], Resident]:
    """Return the tasks in service, waiting, and held at a node of the simulator, from its records."""
    state = env.state
    tasks = state.task[0]
    here = [slot for slot in range(len(tasks)) if tasks[slot]["node"] == n]

    def resident(slot: int) -> Resident:
        return Resident(**{name: tasks[slot][name].item() for name in Resident._fields})

    served = []
    for slot in here:
        if tasks[slot]["stage"] == SERVED:
            end_s = tasks[slot]["since_s"] + tasks[slot]["work"] / env.scenario.arrays.node[n]["core_speed"]
            aborts = env.scenario.arrays.settings[0]["expiry"] == EXPIRY_ABORT
            served.append((resident(slot), min(end_s, tasks[slot]["deadline_s"]) if aborts else end_s))
    waiting = sorted((slot for slot in here if tasks[slot]["stage"] == WAITING), key=lambda s: tasks[s]["since_s"])
    return served, [resident(slot) for slot in waiting], resident(int(state.node[0, n]["held_head"]))


def _teach(view: NodeView, env: ArrivalEnv) -> None:
    """Give a view what the deciding node of the simulator knows: its tasks, and what it has heard and sent."""
    arrays, agent, now_s = env.scenario.arrays, int(env.deciding[0]), float(env.time_s[0])
    n = int(arrays.agent_node[agent])
    unbatched = env.scenario.arrays
    for action in range(1, env.num_actions):
        link_index = int(arrays.destination[agent, action])
        if link_index == NONE:
            continue
        _, tasks, wait_s, age_s, pending, pending_work, _ = what_is_known(unbatched, env.state, 0, agent, action)
        link = view.state.link[0, link_index]
        link["sent"], link["sent_work"] = pending, pending_work
        # Of what arrived before, both sides count nothing.
        if age_s < now_s:
            view.hear(link_index, Heard(now_s - age_s, tasks, now_s + wait_s, 0, 0, 0.0))
        view.state.link[0, link_index]["free_s"] = env.state.link[0, link_index]["free_s"]
    served, waiting, held = _in_order(env, n)
    view.write_tasks(served, waiting, held, int(env.state.node[0, n]["own_awaited"]))
    view.state.node[0, n]["choices"] = env.state.node[0, n]["choices"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"service": "parallel", "queue": "edf"},
        {
            "queue": "sjf",
            "deadlines": {"expiry": "queued"},
            "score": {"drop_s": 60},
            "links": {"kind": "fixed", "rate_bps": 1e6, "contention": "fifo"},
        },
    ],
    ids=["plain", "edf on several cores", "sjf behind links that are queues"],
)
def test_a_node_observes_and_decides_as_the_simulator_does_by_the_same_knowledge(changes: dict[str, Any]) -> None:
    environment = at_once(**changes)
    environment["workload"]["load"] = {"tasks_per_second_per_client": 4}
    environment["topology"]["nodes"][1]["cores"] = 3
    scenario = build_scenario(load_environment(environment))
    env = ArrivalEnv(scenario, 1)
    env.reset(held_out_keys(0, 1))
    arrays = of_one_node(scenario.arrays)
    seen_waiting = seen_sent = 0
    for step in range(150):
        if env.truncated[0]:
            break
        agent = int(env.deciding[0])
        n = int(scenario.arrays.agent_node[agent])
        view = NodeView(arrays, n, KEY, 1.0, env.num_actions)
        _teach(view, env)
        observation, mask = view.observe(float(env.time_s[0]))
        np.testing.assert_allclose(observation, env.observations[0], atol=2e-6, err_msg=f"step {step}")
        np.testing.assert_array_equal(mask, env.masks[0])
        for name in ("least_queue", "shortest_finish", "soft_finish"):
            rule = HEURISTICS[name]
            action = view.decide(rule.code, rule.parameter or 0.0, float(env.time_s[0]))
            assert action == env.heuristic_actions(name)[0], name
        seen_waiting += int(view.state.node[0, n]["tasks"] > 2)
        seen_sent += int(view.state.link[0]["sent"].sum() > 0)
        env.step(env.heuristic_actions("shortest_finish" if step % 3 else "random"))
    assert seen_waiting > 10, "tasks waited"
    assert seen_sent > 5, "tasks were on their way"


def test_what_a_node_tells_is_what_the_simulator_lets_it_tell() -> None:
    scenario = build_scenario(load_environment(at_once()))
    arrays = of_one_node(scenario.arrays)
    view = NodeView(arrays, 0, KEY, 1.0, arrays.destination.shape[1])
    task = Resident(0, 0.0, 100.0, 3e6, 1e5, 0.0, 0.0, 0.0, 0, NONE)
    view.write_tasks([(task, 4.0)], [task._replace(number=1), task._replace(number=2)])
    tasks, free_s = view.advertise(2.0)
    assert (tasks, free_s) == (3, 10.0), "4 s, and two tasks of 3e6 instructions at 1e6 per second"
    view.write_tasks([(task, 4.0)], [task._replace(deadline_s=3.0)])
    assert view.advertise(2.0) == (2, 4.0), "what expires before it is served takes no time"
    env = ArrivalEnv(scenario, 1)
    env.reset(held_out_keys(0, 1))
    assert view.phase_s == env.state.node[0, 0]["phase_s"], "the phase of the broadcasts is that of the episode"


def test_an_older_broadcast_does_not_replace_a_newer_one_and_a_neighbour_that_failed_is_avoided() -> None:
    scenario = build_scenario(load_environment(at_once()))
    arrays = of_one_node(scenario.arrays)
    view = NodeView(arrays, 0, KEY, 1.0, arrays.destination.shape[1])
    task = Resident(0, 5.0, 100.0, 8e6, 1e5, 0.0, 0.0, 0.0, 0, NONE)
    links = [int(link) for link in arrays.destination[view.agent, 1:] if link != NONE]
    fast = next(link for link in links if arrays.link[link]["destination"] == 3)

    def choice() -> int:
        view.write_tasks([], [], task)
        return view.action_link(view.decide(SHORTEST_FINISH, 0.0, 5.0))

    assert choice() == fast, "node d is four times as fast"
    view.hear(fast, Heard(4.0, 9, 60.0, 0, 0, 0.0))
    assert choice() != fast, "it has told of a long queue"
    view.hear(fast, Heard(3.0, 0, 0.0, 0, 0, 0.0))
    assert choice() != fast, "what it told before that counts no more"
    view.hear(fast, Heard(4.5, 0, 0.0, 0, 0, 0.0))
    assert choice() == fast
    view.sent(fast, 4e8)
    assert choice() != fast, "what was sent there counts until it is heard of"
    view.forget(fast, 0, 0.0)
    assert choice() == fast
    view.hear(fast, Heard(4.8, 0, 0.0, 1, 0, 0.0))
    assert choice() != fast, "it is down"


@pytest.mark.parametrize("kind", ["mlp", "pointer"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("output", ["logits", "values", "dueling"])
def test_a_policy_without_torch_gives_what_it_gives_with_torch(
    kind: str, activation: str, output: str, tmp_path: Path
) -> None:
    import torch

    env = ArrivalEnv(build_scenario(load_environment(at_once())), 1)
    env.reset(held_out_keys(0, 1))
    changes: dict[str, Any] = {"network": Network(kind=kind, activation=activation, hidden=(16, 8))}
    if output != "logits":
        changes |= {"output": "values", "dueling": output == "dueling", "epsilon": 0.3}
    policy = kept(tmp_path, env, **changes).on(env)
    (name, network), *_ = policy.networks.items()
    weights = {key: value.numpy() for key, value in network.state_dict().items()}
    described = policy.description
    shape = Shape(described.output, kind, activation, described.epsilon, described.dueling, described.blocks[:3])
    alone = PortablePolicy(shape, weights)
    for _ in range(20):
        seen, mask = env.observations[0], env.masks[0]
        with torch.inference_mode():
            wanted = network(torch.from_numpy(seen[None]), torch.from_numpy(mask[None]))[0].numpy()
        valid = mask != 0
        np.testing.assert_allclose(scores(weights, shape, seen, mask)[valid], wanted[valid], rtol=1e-5, atol=1e-5)
        action = policy(env.observations, env.masks, agents=env.deciding)
        # Equal destinations may have scores that differ only by rounding.
        assert wanted[alone(seen, mask)] == pytest.approx(wanted[valid].max(), rel=1e-5, abs=1e-5), name
        assert mask[alone(seen, mask, deterministic=False)] == 1
        env.step(action)
    draws = [alone(env.observations[0], env.masks[0], deterministic=False) for _ in range(400)]
    if output != "logits" and env.masks[0].all():
        shares = np.bincount(draws, minlength=env.num_actions) / 400
        assert shares.min() > 0.3 / env.num_actions / 3, "each action is explored"
        assert shares.max() == pytest.approx(0.7 + 0.3 / env.num_actions, abs=0.1)
