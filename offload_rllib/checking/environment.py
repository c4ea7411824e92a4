"""Checks of an environment: its networks, seeds, rewards, masks, observations, load and decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from offload_rllib.checking import faces
from offload_rllib.checking.episodes import MOST_STEPS, Digest, begin, digests, earned, steps_of
from offload_rllib.checking.results import Check, CheckFailed, Note
from offload_rllib.config import EnvironmentConfig, load_environment
from offload_rllib.envs.vector import NativeEnv, held_out_keys
from offload_rllib.scenario import BuiltScenario
from offload_rllib.scenario.cost import note_of_capacity, notes_of_cost
from offload_rllib.scenario.topology import build_network, resamples
from offload_rllib.simulator.types import FINISHED, OPEN

# Beyond these a policy has little to decide, or every policy must drop tasks.
LIGHT_RHO, FULL_RHO = 0.3, 1.0
# Most tasks should have a deadline that some node can meet.
MOST_FEASIBLE = 0.95
EPISODES = 3
# Rewards are float32, and their sum over an episode is compared with one in float64.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Subject:
    """An environment under check."""

    config: EnvironmentConfig
    scenario: BuiltScenario
    seed: int

    @property
    def keys(self) -> np.ndarray:
        """Keys [EPISODES] of episodes that training never uses."""
        return held_out_keys(self.seed, EPISODES)

    def with_(self, *overrides: str) -> EnvironmentConfig:
        """Return the configuration with some keys changed."""
        return load_environment(self.config, overrides)


def environment_checks(subject: Subject) -> Iterator[tuple[str, Check]]:
    """Yield name and function of every check of an environment."""
    for name, check in (
        ("file and scenario", loads),
        ("networks", networks),
        ("same seed, same bits", same_seed),
        ("other seed, other episode", other_seed),
        ("rewards", rewards),
        ("masks", masks),
        ("observations", observations),
        ("load", load),
        ("decisions", decisions),
    ):
        yield name, lambda check=check: check(subject)
    for name, face in faces.FACES.items():
        yield name, lambda face=face: face(subject.config)


def loads(subject: Subject) -> str:
    """Say what the file describes, with notes on its data."""
    network = subject.scenario.network
    text = f"{len(network.nodes)} nodes, {len(network.links)} links, {len(subject.scenario.agents)} agents"
    notes = subject.scenario.arriving.notes
    return Note("; ".join((text, *notes))) if notes else text


def networks(subject: Subject) -> str:
    """Check that the networks follow from the seed, and with `resample: episode` from the episode."""
    topology = subject.config.topology
    redraws = resamples(topology)
    keys: list[Any] = subject.keys.tolist() if redraws else [None]
    drawn = [build_network(topology, key) for key in keys]
    if any(build_network(topology, key) != network for key, network in zip(keys, drawn, strict=True)):
        raise CheckFailed(
            f"topology.kind: {topology.kind}: two networks of the same seed differ; draw from the given seed alone"
        )
    if not redraws:
        return "the same whenever it is built"
    if all(network == drawn[0] for network in drawn):
        raise CheckFailed(
            f"topology.resample: episode: the networks of {len(drawn)} episodes are the same; draw them from the seed, "
            "or leave the key out"
        )
    return f"one for each episode; the networks of {len(drawn)} episodes differ"


def same_seed(subject: Subject) -> str:
    """Check that an episode is the same when it is played again, and among others in a batch."""
    keys = subject.keys
    first = digests(begin(subject.config, keys[:1]), "random")[0]
    again = digests(begin(subject.config, keys[:1]), "random")[0]
    if again != first:
        raise CheckFailed(f"an episode that is played again has other {_differing(first, again)}")
    beside = digests(begin(subject.config, np.roll(keys, 1)), "random")[1]
    if beside != first:
        raise CheckFailed(f"an episode has other {_differing(first, beside)} when others are played beside it")
    return f"alone, again, and in a batch of {EPISODES}"


def _differing(one: Digest, other: Digest) -> str:
    return ", ".join(name for name in one if one[name] != other[name])


def other_seed(subject: Subject) -> str:
    """Check that episodes of different seeds have different tasks."""
    env = begin(subject.config, subject.keys, log=True)
    for _ in steps_of(env):
        env.step(env.heuristic_actions("local"))
    logs = [env.task_log(e) for e in range(EPISODES)]
    made = {b"".join(log[name].tobytes() for name in ("created_s", "origin", "work")) for log in logs}
    if len(made) == EPISODES:
        return f"the tasks of {EPISODES} episodes differ"
    if getattr(subject.config.workload.arrivals, "kind", "") == "replay":
        return Note("the workload is a recording: every episode replays the same tasks")
    raise CheckFailed(f"of {EPISODES} episodes only {len(made)} differ: does any task arrive? raise workload.load")


def rewards(subject: Subject) -> str:
    """Check that rewards are finite and not all zero, and that `delay` sums to what the tasks cost.

    Observations are the full ones, so that a user's function for them is not called.
    """
    env = begin(subject.with_("observe=full"), subject.keys[:1], log=True)
    total, largest = np.zeros(len(env.agents)), 0.0
    for each in earned(env):
        if not np.isfinite(each).all():
            raise CheckFailed(f"reward.name: {subject.config.reward.name}: a reward is not finite")
        total += each
        largest = max(largest, float(np.abs(each).max()))
    if largest == 0:
        return Note("every reward of an episode is 0: nothing can be learned from it")
    text = f"finite; the mean return is {total.mean():.4g}, the largest reward {largest:.3g} in size"
    ended = bool(env.truncated[0])
    reward = subject.config.reward
    if reward.name != "delay" or reward.shaping is not None:
        return text
    if not ended:
        return f"{text}; the sum was not checked: an episode has over {MOST_STEPS:,} steps"
    expected = -_delay_costs(env)
    worst = int(np.abs(total - expected).argmax())
    if not np.allclose(total, expected, rtol=TOLERANCE, atol=TOLERANCE * max(np.abs(expected).max(), 1e-9)):
        raise CheckFailed(
            f"the rewards of '{env.agents[worst]}' sum to {total[worst]:.6g}; minus the response times and drop costs "
            f"of the tasks is {expected[worst]:.6g}"
        )
    return f"{text}; they sum to minus the response times and drop costs"


def _delay_costs(env: NativeEnv) -> np.ndarray:
    """Return what each agent's tasks cost in a finished episode [A], from the log of tasks; see `docs/rewards.md`."""
    scenario = env.scenario_of(0)
    config, arrays, log = scenario.config, scenario.arrays, env.task_log(0)
    horizon_s = config.horizon_s
    ended_s = np.where(log["outcome"] == OPEN, horizon_s, log["ended_s"])
    age_s = ended_s - log["created_s"]
    aborts = (config.deadlines.expiry == "abort") & np.isfinite(log["deadline_s"])
    latest_s = np.where(aborts, log["deadline_s"], horizon_s)
    score_s = np.maximum(np.maximum(latest_s - log["created_s"], age_s), config.score.drop_s or 0.0)
    dropped = log["outcome"] > FINISHED
    cost = age_s + np.where(dropped, score_s - age_s + config.reward.drop_penalty_s, 0.0)
    by_node = np.bincount(log["origin"], weights=cost * arrays.type_weight[log["type"]], minlength=len(arrays.node))
    by_agent = np.zeros(len(env.agents))
    for a, n in enumerate(arrays.agent_node[: len(env.agents)]):
        first = arrays.node[n]["first_link"]
        near = arrays.link["destination"][first : first + arrays.node[n]["degree"]]
        by_agent[a] = {
            "own": by_node[n],
            "neighbourhood": (by_node[n] + by_node[near].sum()) / (1 + len(near)),
            "team": by_node.sum() / len(env.agents),
        }[config.reward.scope]
    return config.reward.scale * by_agent


def masks(subject: Subject) -> str:
    """Check that there is always a valid action, and that a masked one acts as the first of them and is counted."""
    config = subject.with_("decisions.strict=false")
    masked, kept = begin(config, subject.keys[:1]), begin(config, subject.keys[:1])
    rng = np.random.default_rng(subject.seed)
    asked = tried = 0
    for _ in steps_of(masked):
        mask = masked.masks
        if not (mask == 1).any(-1).all():
            raise CheckFailed("an agent has no valid action")
        actions, has_masked = masked.heuristic_actions("random"), (mask == 0).any(-1)
        wrong = has_masked & (rng.random(has_masked.shape) < 0.5)
        asked, tried = asked + int((mask.sum(-1) > 1).sum()), tried + int(wrong.sum())
        kept.step(np.where(wrong, mask.argmax(-1), actions))
        masked.step(np.where(wrong, mask.argmin(-1), actions))
        if any((getattr(masked, what) != getattr(kept, what)).any() for what in ("observations", "rewards", "masks")):
            raise CheckFailed("a masked action does not act as the first valid one")
    if tried and masked.truncated[0] and masked.episode_metrics(0)["masked_actions"] != tried:
        raise CheckFailed(f"{tried} masked actions were tried, {masked.episode_metrics(0)['masked_actions']:g} counted")
    if not asked:
        return Note("no agent had a choice in an episode: there is nothing to decide")
    done = f"{tried:,} masked actions acted as the first valid one" if tried else "none was masked"
    return f"{asked:,} choices; {done}"


def observations(subject: Subject) -> str:
    """Check that observations are finite, and that what is not a user's own stays in [-1, 1].

    Rewards are the built-in `sparse`, so that a user's function for them is not called.
    """
    own = subject.config.reward.name
    env = begin(subject.with_("reward.name=sparse") if ":" in own else subject.config, subject.keys)
    numbers, outside = 0, np.zeros(env.observation_size, np.int64)
    for _ in steps_of(env):
        seen = env.observations[~env.truncated].reshape(-1, env.observation_size)
        if not np.isfinite(seen).all():
            raise CheckFailed(f"observe: {subject.config.observe}: an observation is not finite")
        numbers += seen.size
        outside += (np.abs(seen) > 1).sum(axis=0)
        env.step(env.heuristic_actions("random"))
    share = float(outside.sum()) / max(numbers, 1)
    if not outside.any():
        return f"{env.observation_size} numbers, all in [-1, 1]"
    worst = env.layout.names[int(outside.argmax())]
    text = f"{share:.1%} of the numbers lie outside [-1, 1], most of them in {worst}"
    if env.observation_bounds == (-1.0, 1.0):
        raise CheckFailed(text)
    return Note(f"{text}: networks learn better from numbers of that size")


def load(subject: Subject) -> str:
    """Say how loaded the network is, with a note where there is little to decide or too much to do."""
    offered, scenario = subject.scenario.load, subject.scenario
    low, high = offered.rho * offered.rate_from, offered.rho * offered.rate_to
    span = f"{low:.3g} to {high:.3g}" if high > low else f"{high:.3g}"
    text = f"rho {span}; {offered.feasible_share:.1%} of the tasks could meet their deadline"
    notes = list(notes_of_cost(scenario.cost))
    if high > FULL_RHO:
        notes.append(
            "overloaded: every policy must drop tasks or let them wait ever longer"
            if subject.config.cloud is None
            else "more than the nodes can process: the rest belongs in the cloud, which rho leaves out"
        )
    if high < LIGHT_RHO:
        notes.append("lightly loaded: nearly every rule does well")
    if offered.feasible_share < MOST_FEASIBLE:
        notes.append("tasks that can be in time nowhere expire under every policy")
    return Note("; ".join((text, *notes))) if notes else text


def decisions(subject: Subject) -> str:
    """Say whether the busiest agent decides as many tasks as reach it."""
    if subject.config.decisions.when == "arrival":
        return "every task is decided when it arrives"
    note = note_of_capacity(subject.scenario.cost, subject.config)
    cost, most = subject.scenario.cost, subject.config.decisions.tasks_per_decision
    return (
        Note(note)
        if note
        else (
            f"{cost.tasks_per_interval:.3g} tasks reach '{cost.busiest}' between two decisions; it decides up to {most}"
        )
    )
