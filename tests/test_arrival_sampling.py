"""Sampling decisions at arrivals: the trajectories of RLlib's runner, wherever samples are cut, and the same losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers.environments import small_environment
from helpers.sampling import SHARING, runner_config
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import (
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    NUM_EPISODES,
)

from offload_rllib.algorithms.ppo import OffloadPPOConfig
from offload_rllib.config import load_environment
from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.costs import cost_table
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.callbacks import LOGGED, PREFIX, EpisodeMetrics, figures_of
from offload_rllib.rollout.episodes import agent_steps_of
from offload_rllib.rollout.episodes_runner import EpisodesEnvRunner
from offload_rllib.rollout.hindsight import ANNEALED, DECISIONS, Present, decision_costs
from offload_rllib.rollout.runner import COSTS, CREDIT, BatchedEnvRunner
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import FINISHED, NONE, QUEUE_FULL

ARRIVAL = {"when": "arrival", "max_hops": 2}


def arrival_config(sharing: str = "shared", **options: Any) -> OffloadPPOConfig:
    return runner_config(sharing, env=small_environment(decisions=ARRIVAL), **options)


def make_runner(config: OffloadPPOConfig, kind: type = BatchedEnvRunner) -> Any:
    """Return a runner whose policies are far from uniform, the same for every kind."""
    runner = kind(config=config, worker_index=0)
    torch.manual_seed(3)
    for module in runner.module.values():
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return runner


class Step(NamedTuple):
    """A step of an agent, and what came of it."""

    observation: bytes
    mask: bytes
    action: int
    reward: float
    elapsed_s: float
    following: bytes
    """The successor's observation."""
    ended: bool


def steps_by_agent(samples: Iterable[AgentSteps]) -> dict[tuple[str, str], list[Step]]:
    """Return the steps of each policy and agent, in order."""
    found: dict[tuple[str, str], list[Step]] = {}
    for sample in samples:
        rows = len(sample)
        for i in range(rows):
            successor = int(sample.following[i])
            closing = successor - rows
            after = sample.observations[successor] if closing < 0 else sample.closing_observations[closing]
            found.setdefault((sample.module_id, sample.agents[sample.agent[i]]), []).append(
                Step(
                    sample.observations[i].tobytes(),
                    sample.masks[i].tobytes(),
                    int(sample.actions[i]),
                    float(sample.rewards[i]),
                    float(sample.elapsed_s[i]),
                    after.tobytes(),
                    closing >= 0 and bool(sample.ended[closing]),
                )
            )
    return found


def of_environment(samples: list[AgentSteps], e: int) -> list[AgentSteps]:
    """Return the part of one environment."""
    return [sample.subset(sample.environment == e) for sample in samples]


def by_environment(samples: list[AgentSteps], e: int) -> dict[tuple[str, str], list[Step]]:
    """Return the steps of each policy and agent of one environment."""
    return steps_by_agent(of_environment(samples, e))


@pytest.mark.parametrize("sharing", sorted(SHARING))
def test_both_runners_give_the_same_trajectories(sharing: str) -> None:
    config = arrival_config(sharing)
    batched, stock = make_runner(config), make_runner(config, MultiAgentEnvRunner)
    stock.module.set_state(batched.module.get_state())
    samples = batched.sample(num_episodes=3, explore=False)
    episodes = stock.sample(num_episodes=3, explore=False)
    assert len(episodes) == 3
    sampled = [by_environment(samples, e) for e in range(3)]
    actions = set()
    for episode in episodes:  # in the order in which they end
        theirs = steps_by_agent(agent_steps_of([episode]))
        assert theirs in sampled
        sampled.remove(theirs)
        for (module_id, agent), steps in theirs.items():
            assert module_id == SHARING[sharing][0](agent, None)
            assert steps[-1].ended
            actions |= {step.action for step in steps}
        assert sum(map(len, theirs.values())) == episode.env_t > 100
    assert actions == {0, 1, 2}


@pytest.mark.parametrize("sharing", ["shared", "mapping"])
def test_where_samples_are_cut_makes_no_difference(sharing: str) -> None:
    whole, pieces = make_runner(arrival_config(sharing)), make_runner(arrival_config(sharing))
    at_once = whole.sample(num_timesteps=3 * 450, explore=True)
    parts = [part for steps in (1, 2, 160, 287) for part in pieces.sample(num_timesteps=3 * steps, explore=True)]
    for e in range(3):
        expected, found = by_environment(at_once, e), by_environment(parts, e)
        assert expected == found
        assert sum(step.ended for steps in found.values() for step in steps) >= 2
    assert all((part.following > np.arange(len(part))).all() for part in parts)
    counts = [part.env_steps for part in parts if part.module_id == parts[0].module_id]
    assert counts == [3, 6, 480, 861]


def test_sampled_actions_depend_on_the_episode_alone() -> None:
    few, many = make_runner(arrival_config(envs=1)), make_runner(arrival_config(envs=6))
    ours = steps_by_agent(few.sample(num_timesteps=120, explore=True))
    theirs = by_environment(many.sample(num_timesteps=6 * 120, explore=True), 0)
    assert {who: [(s.observation, s.action) for s in steps] for who, steps in ours.items()} == {
        who: [(s.observation, s.action) for s in steps] for who, steps in theirs.items()
    }


def test_every_decision_of_an_episode_has_a_draw_of_its_own() -> None:
    runner = make_runner(runner_config(env=small_environment(horizon_s=200, decisions=ARRIVAL), envs=6))
    for parameter in runner.module["shared"].parameters():
        torch.nn.init.zeros_(parameter)  # all valid actions are equally likely
    sample = runner.sample(num_timesteps=6 * 480, explore=True)[0]
    assert not sample.ended.any()
    free = sample.masks.all(-1)
    for e in range(6):
        for agent in range(len(sample.agents)):
            here = free & (sample.environment == e)[: len(sample)] & (sample.agent == agent)[: len(sample)]
            shares = np.bincount(sample.actions[here], minlength=3) / here.sum()
            assert here.sum() > 30
            np.testing.assert_allclose(shares, 1 / 3, atol=5 * np.sqrt(2 / 9 / here.sum()))


def test_log_probabilities_are_those_of_the_policy() -> None:
    runner = make_runner(arrival_config("mapping"))
    for sample in runner.sample(num_timesteps=300, explore=True):
        seen, masks = torch.from_numpy(sample.observations), torch.from_numpy(sample.masks)
        logp = torch.log_softmax(runner.module[sample.module_id].actor(seen, masks), -1).detach().numpy()
        expected = logp[np.arange(len(sample)), sample.actions]
        np.testing.assert_allclose(sample.log_probabilities, expected, rtol=1e-4, atol=1e-5)


def test_rewards_of_whole_episodes_are_those_of_the_environment() -> None:
    """What agents earn before their first decision belongs to none; all else is in the rows."""
    runner = make_runner(arrival_config())
    for _ in range(2):
        sample = runner.sample(num_episodes=3, explore=False)[0]
        metrics = runner.get_metrics()
        assert metrics["num_episodes"].peek() == 3
        assert metrics["num_env_steps_sampled"].peek() == sample.env_steps == len(sample)
        assert metrics["episode_len_mean"].peek() == pytest.approx(len(sample) / 3)
        assert metrics["episode_return_mean"].peek() == pytest.approx(float(sample.rewards.sum()) / 3, rel=0.05)


def test_the_return_of_an_episode_holds_nothing_of_the_one_before() -> None:
    runner = make_runner(arrival_config(envs=1))
    sample = runner.sample(num_timesteps=900, explore=True)[0]
    ends = np.append(np.zeros(len(sample), bool), sample.ended)
    for row in reversed(range(len(sample))):
        ends[row] = ends[sample.following[row]]
    metrics = runner.get_metrics()
    episodes = metrics["num_episodes"].peek()
    assert episodes > 3
    expected = float(sample.rewards[ends[: len(sample)]].sum()) / episodes
    assert metrics["episode_return_mean"].peek() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("sharing", sorted(SHARING))
def test_the_learner_computes_the_same_loss_from_both_runners(sharing: str) -> None:
    config = arrival_config(sharing)
    batched, stock = make_runner(config), make_runner(config, MultiAgentEnvRunner)
    stock.module.set_state(batched.module.get_state())
    learner = config.build_learner(env=None, spaces=batched.get_spaces())
    samples = batched.sample(num_episodes=3, explore=False)
    episodes = agent_steps_of(stock.sample(num_episodes=3, explore=False))
    compared = []
    for module_id in SHARING[sharing][1]:
        losses: list[Any] = []
        for sampled in (samples, episodes):
            # As the learner does: an agent without a task in one of RLlib's episodes leaves an empty sample.
            mine = [sample for sample in sampled if sample.module_id == module_id and len(sample)]
            for sample in mine:
                sample.log_probabilities[:] = 0.0  # greedy actions: RLlib's runner has no probabilities of them
            if not mine:  # nobody sends a task to these agents, under the first weights
                losses.append(None)
                continue
            rows = learner.rows_of(module_id, mine, learner.config)
            outputs = learner.module[module_id].forward_train(rows)
            module_config = learner.config.get_config_for_module(module_id)
            loss = learner.compute_loss_for_module(
                module_id=module_id, config=module_config, batch=rows, fwd_out=outputs
            )
            losses.append((loss.item(), rows[Postprocessing.VALUE_TARGETS].sum().item(), len(rows[Columns.ACTIONS])))
        if None in losses:
            assert losses == [None, None], module_id
            continue
        compared.append(module_id)
        assert losses[0][2] == losses[1][2] > 0
        assert losses[0][:2] == pytest.approx(losses[1][:2], rel=1e-4)
    assert compared


def test_a_central_critic_is_given_what_all_agents_see_at_the_decision() -> None:
    config = arrival_config()
    config.rl_module(model_config={"hidden": (16, 16), "activation": "tanh", "critic": "central"})
    runner = make_runner(config)
    for _ in range(3):
        sample = runner.sample(num_timesteps=3 * 40, explore=True)[0]
        assert sample.joint is not None
        assert sample.moment is not None
        rows = len(sample)
        own = np.concatenate([sample.observations, sample.closing_observations])
        at = sample.joint[sample.moment]
        assert (at[np.arange(len(own)), sample.agent] == own).all()
        others = [(at[i, a] != at[i, b]).any() for i in range(rows) for a, b in [(0, 1)]]
        assert all(others)


def test_rllibs_episodes_hold_the_same_steps() -> None:
    ours, theirs = make_runner(arrival_config()), make_runner(arrival_config(), EpisodesEnvRunner)
    expected = steps_by_agent(ours.sample(num_timesteps=3 * 90, explore=True))
    episodes = theirs.sample(num_timesteps=3 * 90, explore=True)
    found: dict[tuple[bytes, int], tuple[float, float]] = {}
    for episode in episodes:
        episode.validate()
        for i in range(len(episode)):
            key = (episode.get_observations(i)["observations"].tobytes(), int(episode.get_actions(i)))
            elapsed = episode.get_extra_model_outputs("elapsed_s", i)
            found[key] = (float(episode.get_rewards(i)), float(elapsed))
    wanted = {(s.observation, s.action): (s.reward, s.elapsed_s) for steps in expected.values() for s in steps}
    assert wanted == found
    assert sum(episode.is_truncated for episode in episodes) == sum(
        s.ended for steps in expected.values() for s in steps
    )


def decided_tasks(log: np.ndarray, node: int) -> np.ndarray:
    """Return the numbers of the tasks that one node has decided on, with one hop, in order."""
    refused = (log["outcome"] == QUEUE_FULL) & (log["hops"] == 0)
    tasks = np.flatnonzero((log["origin"] == node) & ~refused & (log["created_s"] > 0))
    return tasks[np.argsort(log["created_s"][tasks])]


@pytest.mark.parametrize("credit", [DECISIONS, ANNEALED])
def test_every_decision_is_credited_with_what_it_cost(credit: str) -> None:
    overrides = ["horizon_s=130", "warmup_s=5", "drain_s=40", "decisions={max_hops: 1}"]
    environment = load_environment("manual_5", overrides)
    figures = ("missed_share", "dropped_share")
    own = {CREDIT: credit, COSTS: figures}
    runner = make_runner(runner_config(env=environment.model_dump(mode="json"), envs=2, **own))
    batch = runner.env.batch
    charges, _ = cost_table(figures, batch.scenario.arriving.types)
    ended: dict[int, Any] = {}
    original = runner.finish_episodes

    def keep_logs(which: np.ndarray, *rest: Any) -> None:
        ended.update({e: batch.task_log(e) for e in which.tolist()})
        original(which, *rest)

    runner.finish_episodes = keep_logs
    nodes = np.asarray(batch.scenario.arrays.agent_node).tolist()
    credited: Counter[tuple[int, int]] = Counter()
    before_the_end = caused = 0
    while len(ended) < 2:
        going_on = {0, 1} - set(ended)
        sample = runner.sample(num_timesteps=2 * 15, explore=True)[0]
        for e in going_on:
            part = sample.subset(sample.environment == e)
            present = None if e in ended else Present(float(batch.time_s[e]), batch.tasks_inside(e))
            log = ended[e] if present is None else batch.task_log(e)
            cost_s, counted = decision_costs(batch.scenario, log, present, charges)
            for a, node in enumerate(nodes[: len(part.agents)]):
                here = np.flatnonzero(part.agent[: len(part)] == a)
                tasks = decided_tasks(log, node)[credited[e, a] :][: len(here)]
                assert len(tasks) == len(here)
                credited[e, a] += len(here)
                caused += int((counted[tasks] > 0).sum())
                known = log["created_s"][tasks] <= 90
                expected = np.where(known, -batch.scenario.config.reward.scale * cost_s[tasks], np.nan)
                if present is not None:
                    before_the_end += len(here)
                    assert (log["created_s"][tasks] <= present.time_s - 40).all()
                if credit == ANNEALED:
                    assert part.hindsight is not None
                    assert part.hindsight_costs is not None
                    np.testing.assert_allclose(part.hindsight[here], expected, rtol=1e-5)
                    np.testing.assert_array_equal(part.hindsight_costs[here], counted[tasks])
                    assert part.choices[here].all()
                    assert not np.isclose(part.rewards[here], expected).any()
                else:
                    np.testing.assert_allclose(part.rewards[here][known], expected[known], rtol=1e-5)
                    np.testing.assert_array_equal(part.costs[here], counted[tasks])
                    assert (part.choices[here] == known).all()
    assert all(count == len(decided_tasks(ended[e], nodes[a])) for (e, a), count in credited.items())
    assert before_the_end > 40
    assert caused > 10


def test_credit_comes_later_and_changes_nothing_else() -> None:
    own: dict[str, Any] = {"env": small_environment(decisions=ARRIVAL, drain_s=12), "envs": 3}
    plain, credited = make_runner(runner_config(**own)), make_runner(runner_config(**own, **{CREDIT: ANNEALED}))
    steps = [1, 2, 50, 160, 187]
    sampled = [part for count in steps for part in plain.sample(num_timesteps=3 * count, explore=True)]
    later = [part for count in steps for part in credited.sample(num_timesteps=3 * count, explore=True)]
    assert [part.env_steps for part in sampled] == [part.env_steps for part in later]
    for e in range(3):
        expected, found = by_environment(sampled, e), by_environment(later, e)
        assert expected.keys() == found.keys()
        for who, of_agent in found.items():
            assert of_agent == expected[who][: len(of_agent)]
            # Those of the last 12 s are still to come.
            assert 0 < len(expected[who]) - len(of_agent) < 60
    assert all((part.following > np.arange(len(part))).all() for part in later)
    assert sum(part.ended.sum() for part in later) == sum(part.ended.sum() for part in sampled)


def test_without_a_drain_samples_are_whole_episodes() -> None:
    environment = small_environment(decisions=ARRIVAL)
    runner = make_runner(runner_config(env=environment, envs=3, **{CREDIT: ANNEALED}))
    sample = runner.sample(num_timesteps=3, explore=True)[0]
    assert sample.env_steps == len(sample) > 100
    assert sample.hindsight is not None
    assert np.isfinite(sample.hindsight).all()


def test_the_pending_tasks_are_those_that_the_log_knows() -> None:
    scenario = build_scenario(load_environment("full_10", ["horizon_s=120", "workload.load.rho=1.2"]))
    env = ArrivalEnv(scenario, 2, log=True)
    env.reset(held_out_keys(0, 2))
    seen: list[tuple[int, int, int, float]] = []
    while not env.truncated.all():
        tasks = env.pending_tasks()
        assert (tasks[env.truncated] == NONE).all()
        seen += [
            (e, int(tasks[e]), int(scenario.arrays.agent_node[env.deciding[e]]), float(env.time_s[e]))
            for e in np.flatnonzero(~env.truncated).tolist()
        ]
        env.step(env.heuristic_actions("random"))
    logs = [env.task_log(e) for e in range(2)]
    again = 0
    for e, number, node, time_s in seen:
        task = logs[e][number]
        if time_s == task["created_s"]:
            assert node == task["origin"]
        elif task["hops"] == 1 and task["outcome"] == FINISHED:
            again += 1
            assert node == task["node"]
            assert time_s == pytest.approx(task["created_s"] + task["transfer_s"])
    assert again > 10


def test_figures_of_episodes_are_reported_as_means_however_seldom_they_are_logged() -> None:
    returns: list[float] = []
    figures: dict[str, list[float]] = {name: [] for name in LOGGED}
    of_metric: list[float] = []

    def keep(*, episode: Any, **_: Any) -> None:
        returns.append(episode.get_return())
        found = figures_of(episode) or {}
        for name in LOGGED:
            figures[name].append(found[name])
        of_metric.append(found["tasks_finished"])

    config = arrival_config(envs=4)
    config.callbacks(on_episode_end=[keep, EpisodeMetrics({"finished": "helpers.sampling:finished"})])
    runner = make_runner(config)
    calls: list[Any] = []
    log_value = runner.metrics.log_value

    def count(key: Any, *rest: Any, **options: Any) -> None:
        calls.append(key)
        log_value(key, *rest, **options)

    runner.metrics.log_value = count
    for _ in range(2):
        runner.sample(num_timesteps=4 * 300, explore=True)
    assert len(returns) > 6
    assert len(calls) < 30, "logging every episode takes longer than sampling it"
    reported = runner.get_metrics()

    def value(*path: str) -> float:
        found: Any = reported
        for key in path:
            found = found[key]
        return float(found.peek())

    assert value(EPISODE_RETURN_MEAN) == pytest.approx(np.mean(returns), rel=1e-12)
    assert value(EPISODE_RETURN_MIN) == min(returns)
    assert value(EPISODE_RETURN_MAX) == max(returns)
    assert value(NUM_EPISODES) == len(returns)
    for name, values in figures.items():
        assert value(PREFIX, name) == pytest.approx(np.nanmean(values), rel=1e-12)
    assert value(PREFIX, "finished") == pytest.approx(np.mean(of_metric), rel=1e-12)
    reported = runner.get_metrics()
    assert np.isnan(value(EPISODE_RETURN_MEAN)), "what was reported is forgotten"


def test_an_environment_without_tasks_is_refused() -> None:
    quiet = small_environment(decisions=ARRIVAL)
    quiet["workload"]["load"] = {"tasks_per_second_per_client": 1e-9}
    runner = BatchedEnvRunner(config=runner_config(env=quiet), worker_index=0)
    with pytest.raises(ConfigError, match="no task was to be decided"):
        runner.sample(num_timesteps=3)


def test_every_column_of_a_part_is_of_its_rows() -> None:
    runner = make_runner(arrival_config("mapping"))
    samples = runner.sample(num_timesteps=3 * 60, explore=True)
    for sample in samples:
        rows, closings = len(sample), len(sample.ended)
        for field in fields(sample):
            value = getattr(sample, field.name)
            if isinstance(value, np.ndarray) and field.name != "counted":  # of the environments, not of rows
                both = field.name in ("agent", "environment", "moment")
                expected = (
                    rows + closings if both else closings if field.name.startswith(("closing", "ended")) else rows
                )
                assert len(value) == expected, field.name
        assert (sample.agent != NONE).all()


def test_a_policy_without_a_task_is_left_as_it_is() -> None:
    config = arrival_config("per_node")
    runner = make_runner(config)
    learner = config.build_learner(env=None, spaces=runner.get_spaces())
    # With other weights than those that acted, PPO may clip all that a policy has chosen.
    learner.set_state({"rl_module": runner.module.get_state()})
    samples = runner.sample(num_timesteps=3, explore=True) + runner.sample(num_timesteps=90, explore=True)
    samples = [sample for sample in samples if sample.module_id != "node_b"]
    choices: Counter[str] = Counter()
    for sample in samples:
        choices[sample.module_id] += int(sample.choices.sum())
    taught = {name for name, count in choices.items() if count > 1}  # a single choice has an advantage of 0
    assert taught == {"node_a", "node_c", "node_d"}
    before = {name: module.unwrapped().actor.state_dict() for name, module in learner.module.items()}
    before = {name: {key: value.clone() for key, value in state.items()} for name, state in before.items()}
    learner.update(episodes=samples, timesteps={}, num_epochs=1, minibatch_size=16)
    for name, module in learner.module.items():
        same = all(
            torch.equal(before[name][key], value) for key, value in module.unwrapped().actor.state_dict().items()
        )
        assert same == (name not in taught), name
