"""Who decides, and how much at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.environments import RULES_THAT_NEED_MORE, log_bytes, make_env, random_actions, small_environment
from pettingzoo.test import parallel_api_test, parallel_seed_test

import offload_rllib
from offload_rllib.config import load_policy_config
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.policy import Sharing
from offload_rllib.envs.batch import observe_some
from offload_rllib.envs.vector import VectorEnv
from offload_rllib.policies.sharing import assign_in
from offload_rllib.simulator.heuristics import HEURISTICS
from offload_rllib.simulator.types import HELD


def typed_environment(**changes: Any) -> dict[str, Any]:
    """Return the small ring with device types: a and c are pi, b is nuc, d is server."""
    environment = small_environment(**changes)
    for node, kind in zip(environment["topology"]["nodes"], ("pi", "nuc", "pi", "server"), strict=True):
        node["type"] = kind
    return environment


def test_policies_by_device_and_by_node_are_those_of_the_agents_alone() -> None:
    # The other nodes decide as well, by a rule, and stand behind the agents in the arrays.
    scenario = make_env(typed_environment(agents={"types": ["server", "nuc"], "others": "random"})).scenario
    assert assign_in(Sharing(kind="per_device"), scenario).policy_of == ("nuc", "server")
    assert assign_in(Sharing(kind="per_node"), scenario).policy_of == ("b", "d")


@pytest.mark.parametrize(
    ("agents", "names"),
    [
        ("all", ("a", "b", "c", "d")),
        ({"types": ["pi"]}, ("a", "c")),
        ({"types": ["server", "pi"], "others": "random"}, ("a", "c", "d")),
        ({"nodes": ["d", "b"]}, ("b", "d")),
    ],
)
def test_agents_are_those_that_are_named(agents: object, names: tuple[str, ...]) -> None:
    env = make_env(typed_environment(agents=agents))
    assert env.agents == names
    assert env.rewards.shape == (1, len(names))
    face = offload_rllib.parallel_env(typed_environment(agents=agents))
    assert face.possible_agents == list(names)
    assert set(env.agents) | set(env.scenario.others) == {"a", "b", "c", "d"}


@pytest.mark.parametrize("information", ["broadcast", "fresh"])
@pytest.mark.parametrize("rule", sorted({*HEURISTICS} - RULES_THAT_NEED_MORE))
def test_the_others_act_by_their_rule_as_agents_would(rule: str, information: str) -> None:
    changes = {"information": {"kind": information}}
    everyone = make_env(small_environment(**changes), 2, log=True)
    some = make_env(small_environment(**changes, agents={"nodes": ["b"], "others": rule}), 2, log=True)
    assert some.agents == ("b",)
    done = False
    while not done:
        actions = everyone.heuristic_actions(rule)
        everyone.step(actions)
        done = some.step(actions[:, 1:2])
        assert (some.observations[:, 0] == everyone.observations[:, 1]).all()
        assert (some.masks[:, 0] == everyone.masks[:, 1]).all()
    assert log_bytes(some, 0) == log_bytes(everyone, 0)


def test_rows_are_padded_to_the_largest_degree_of_an_agent() -> None:
    star = small_environment(agents={"nodes": ["b"]})
    star["topology"]["links"] = [["a", "b"], ["a", "c"], ["a", "d"]]
    env = make_env(star)
    assert env.num_actions == 2, "b has one neighbour; the hub, which has three, is no agent"
    assert env.scenario.arrays.destination.shape == (4, 4)
    while not env.step(random_actions(env, np.random.default_rng(0))):
        pass


def several(k: int, **changes: Any) -> dict[str, Any]:
    """Return the small ring, overloaded, with k tasks decided at a time."""
    environment = small_environment(decisions={"tasks_per_decision": k, "interval_s": 2.0}, **changes)
    environment["workload"]["load"] = {"tasks_per_second_per_client": 3.0}
    return environment


def observe_all(env: VectorEnv) -> None:
    """Bring an environment's observations up to date with a state that was put into it."""
    observe_some(env._arrays, env._state, np.arange(env.num_envs), env._scales, 0, env._full, env._masks)


def held_slots(env: VectorEnv, e: int, n: int) -> list[int]:
    slots, slot = [], int(env.state.node[e, n]["held_head"])
    while slot >= 0:
        slots.append(slot)
        slot = int(env.state.task[e][slot]["held_next"])
    return slots


def test_several_tasks_are_decided_at_a_time_oldest_first() -> None:
    env = make_env(several(3), 2)
    assert env.masks.shape == (2, 4, 3, 3)
    rng = np.random.default_rng(0)
    decided = []
    done = False
    while not done:
        before = {
            (e, n): [int(env.state.task[e][slot]["number"]) for slot in held_slots(env, e, n)]
            for e in range(2)
            for n in range(4)
        }
        for (e, n), numbers in before.items():
            on_offer = [row[1:].any() for row in env.masks[e, n]]
            assert on_offer == [k < len(numbers) for k in range(3)]
        actions = np.where(rng.random(env.masks.shape[:-1]) < 0.5, 0, 1)
        choices = env.state.node["choices"].copy()
        done = env.step(actions)
        for (e, n), numbers in before.items():
            now_held = {
                int(task["number"]) for task in env.state.task[e] if task["stage"] == HELD and task["node"] == n
            }
            gone = len(set(numbers[:3]) & now_held) == 0
            assert gone, "the three oldest were decided"
            decided.append(int(env.state.node[e, n]["choices"] - choices[e, n]))
            assert decided[-1] == min(len(numbers), 3)
    assert decided.count(3) > 20


def test_blocks_of_several_tasks_are_the_blocks_of_one_task_each() -> None:
    one, two = make_env(several(1)), make_env(several(2))
    assert two.layout.names[4 + 7 + 7 + 12 * 2] == "task_1.offered"
    assert two.layout.size == 4 + 2 * (7 + 7 + 12 * 2) == two.observation_size
    rng = np.random.default_rng(0)
    scale = float(one.scenario.arrays.settings[0]["work_scale"])
    found = 0
    for _ in range(15):
        two.step(rng.integers(0, 3, (1, 4, 2)))
        one._state = two.state
        observe_all(one)
        of_one, of_two = one.layout.split(one.observations), two.layout.split(two.observations)
        assert [part.shape for part in of_two[1:]] == [(1, 4, 2, 7), (1, 4, 2, 7), (1, 4, 2, 2, 12)]
        assert np.shares_memory(of_two[3], two.observations)
        assert (of_two[0] == of_one[0]).all()
        assert (of_two[1][:, :, 0] == of_one[1][:, :, 0]).all()
        assert (of_two[2][:, :, 0] == of_one[2][:, :, 0]).all()
        assert (of_two[3][:, :, 0] == of_one[3][:, :, 0]).all()
        for n in range(4):
            slots = held_slots(two, 0, n)
            assert of_two[1][0, n, 1, 0] == (len(slots) > 1)
            if len(slots) > 1:
                found += 1
                work = float(two.state.task[0][slots[1]]["work"])
                assert of_two[1][0, n, 1, 1] == pytest.approx(work / (work + scale), rel=1e-5)
    assert found > 10


@pytest.mark.parametrize("rule", sorted(HEURISTICS))
def test_rules_decide_several_tasks_at_a_time(rule: str) -> None:
    env = make_env(several(4), 2)
    done = False
    while not done:
        actions = env.heuristic_actions(rule)
        assert actions.shape == (2, 4, 4)
        assert (np.take_along_axis(env.masks, actions[..., None], -1) == 1).all()
        done = env.step(actions)
    assert env.episode_metrics(0)["masked_actions"] == 0


def test_a_rule_does_not_send_all_tasks_of_a_decision_to_the_same_node() -> None:
    environment = several(4)
    environment["decisions"]["max_hops"] = 1
    env = make_env(environment)
    spread = 0
    for _ in range(15):
        actions = env.heuristic_actions("shortest_finish")
        several_offered = env.masks[..., -1].sum(-1) >= 3
        spread += sum(len(set(actions[0, n])) > 1 for n in np.flatnonzero(several_offered[0]))
        env.step(actions)
    assert spread > 10


@pytest.mark.parametrize("rule", ["keep_first:0.5", "threshold:2", "least_queue", "shortest_finish"])
def test_a_rule_counts_what_it_has_kept_and_sent_in_the_same_decision(rule: str) -> None:
    # Four equal tasks at an idle node, as many cores and as good a neighbour as its own: two stay, or fewer.
    environment = several(4)
    environment["topology"] = {
        "kind": "manual",
        "nodes": [{"name": name, "instructions_per_second": 1e6, "client": name == "a"} for name in "ab"],
        "links": [["a", "b"]],
    }
    environment["links"] = {"kind": "fixed", "rate_bps": 1e9}
    environment["workload"]["jobs"]["types"] = [{"instructions": 1e6}]
    environment["workload"]["deadline_s"] = None
    environment["decisions"]["max_hops"] = 1
    env = make_env(environment, 64)
    env.step(np.zeros(env.masks.shape[:-1]))
    four = env.state.node["held"][:, 0] == 4
    assert four.sum() > 3
    sent = env.heuristic_actions(rule)[four, 0]
    if rule.startswith("threshold"):
        # Two are sent to the neighbour, then it is full, and its own node has room.
        assert (sent == [1, 1, 0, 0]).all()
    elif rule.startswith("keep_first"):
        assert (sent[:, 0] == 0).all()
        assert sent.any(axis=1).mean() > 0.7
    else:
        assert (sent.sum(axis=1) == 2).all()


def test_faces_with_several_tasks_have_multi_discrete_actions_and_tuples_of_masks() -> None:
    env = offload_rllib.parallel_env(several(2))
    parallel_api_test(env, num_cycles=60)
    parallel_seed_test(lambda: offload_rllib.parallel_env(several(2)), num_cycles=30)
    observations, _ = env.reset(seed=0)
    for _ in range(10):
        actions = {
            agent: env.action_space(agent).sample(observations[agent]["action_mask"]) for agent in env.possible_agents
        }
        observations, *_ = env.step(actions)
    assert env._batch.episode_metrics(0)["masked_actions"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agents": "some"}, r"agents: must be all, or a mapping"),
        ({"agents": {"types": ["pi"], "nodes": ["a"]}}, r"agents: give types or nodes, not both"),
        ({"agents": {"types": ["pie"]}}, r"agents.types: no node of type 'pie' has a choice. Did you mean 'pi'\?"),
        ({"agents": {"nodes": ["e"]}}, r"agents.nodes: 'e' cannot be an agent: there is no such node.*a, b, c, d"),
        ({"agents": {"nodes": ["a", "a"]}}, r"agents: nodes names one of them twice"),
        ({"agents": {"nodes": []}}, r"agents.nodes: .*at least 1"),
        ({"agents": {"others": "random"}}, r"agents: others needs types or nodes"),
        ({"agents": {"nodes": ["a"], "others": "locl"}}, r"agents.others: 'locl' is not a heuristic.*mean 'local'"),
        ({"agents": {"nodes": ["a"], "others": "local:2"}}, r"agents.others: 'local:2': local takes no parameter"),
        ({"agents": {"nodes": ["a"], "others": "soft_finish:-1"}}, r"agents.others: .*must be a number above 0"),
        ({"agents": {"nodes": ["a"], "others": "nowhere.to:be_found"}}, r"agents.others: .*No module named 'nowhere'"),
        ({"decisions": {"tasks_per_decision": 0}}, r"decisions.tasks_per_decision: .*greater than or equal to 1"),
        (
            {"decisions": {"tasks_per_decision": 2}, "reward": {"name": "peersimgym"}},
            r"reward.name: peersimgym prices one decision per step and needs decisions.tasks_per_decision: 1",
        ),
    ],
)
def test_agents_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        offload_rllib.vector_env(typed_environment(**changes))


def test_nodes_that_no_task_reaches_cannot_be_agents() -> None:
    environment = small_environment(decisions={"max_hops": 1}, agents={"nodes": ["b"]})
    with pytest.raises(ConfigError, match=r"'b' cannot be an agent: no task reaches it with a hop left.*a, c"):
        offload_rllib.vector_env(environment)


def test_training_refuses_what_its_algorithm_cannot_learn() -> None:
    from offload_rllib.config import load_environment
    from offload_rllib.training.train import check

    policy = load_policy_config("ppo")
    with pytest.raises(ConfigError, match="tasks_per_decision: PPO decides one task at a time"):
        check(load_environment(several(2)), policy)
    shaped = small_environment(reward={"shaping": {"potential": "tasks", "gamma": 0.5}})
    with pytest.raises(ConfigError, match=r"reward.shaping.gamma \(0.5\) must equal algorithm.gamma \(0.99\)"):
        check(load_environment(shaped), policy)
