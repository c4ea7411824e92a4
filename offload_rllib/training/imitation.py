"""`training.imitate`: policies that decide as a rule does, or as was recorded, learned before a run begins.

A rule plays training episodes of its own; other decisions come from a file. Actors learn to predict the actions
(behaviour cloning), critics the discounted returns that followed. The result is a folder of saved policies, which the
run starts from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from offload_rllib.algorithms.advantages import generalised_advantages
from offload_rllib.config import ConfigError, PolicyConfig
from offload_rllib.config.algorithms import constraints_of
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.config.imitation import BEST, Imitation
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.episode_keys import training_key
from offload_rllib.envs.layout import Blocks
from offload_rllib.envs.vector import NativeEnv, batch_of, held_out_keys
from offload_rllib.evaluation.rule_tuning import rank_rules
from offload_rllib.policies.module import LOCAL
from offload_rllib.policies.network import Critic
from offload_rllib.policies.saved import PolicyDescription, SavedPolicy, save_policies
from offload_rllib.policies.sharing import Assignment, assign_in
from offload_rllib.policies.warm_start import save_critics
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.dataset import read_decisions
from offload_rllib.rollout.recorder import Recorder
from offload_rllib.scenario.build import check_rule
from offload_rllib.simulator.types import NONE, Array
from offload_rllib.training.settled import settled

ENVIRONMENTS = 16
# Runners number their episodes by themselves; none has this number.
PLAYED_BY = 2**31 - 1
HELD_OUT_EPISODES = 16
# Episodes of training on which all rules are ranked to find the best; fewer where these have more decisions than that.
MOST_RANKED, LEAST_RANKED = 64, 8
RANKED_DECISIONS = 250_000
LARGEST_NORM = 1.0


# Every so many episodes of a file are kept to measure what was learned from the others.
HELD_OUT_EVERY = 10


def check_imitation(policy: PolicyConfig, env: NativeEnv, *, reads: bool = True) -> Imitation:
    """Return what is to be cloned.

    Args:
        policy: that is to be trained.
        env: where.
        reads: read a file of decisions, to check it; not needed where that is done elsewhere, or cloning is over.

    Raises:
        ConfigError: there is no such rule, the file cannot be learned from, or the environment or the algorithm cannot
            learn from either.
    """
    wanted = policy.training.imitate
    if wanted is None:
        raise ConfigError("training.imitate: null; accepted here: a rule, or a file of decisions")
    when = env.scenario.config.decisions.when
    if not isinstance(env, ArrivalEnv):
        raise ConfigError(f"training.imitate: the environment has decisions.when: {when}; accepted: arrival")
    if policy.algorithm.name == "DDQN":
        raise ConfigError("training.imitate: DDQN learns action values, a rule has none; accepted: PPO, A2C, APPO")
    if policy.network.module is not None:
        raise ConfigError(f"training.imitate: network.module: {policy.network.module}; accepted: null")
    if wanted.rule is None:
        if reads:
            _lesson_of(wanted, env)
    elif wanted.rule != BEST:
        check_rule(wanted.rule, "training.imitate.rule", env.scenario.config, beside=[BEST])
    return wanted


def imitate(folder: Path, policy: PolicyConfig, env: NativeEnv) -> dict[str, Any]:
    """Write cloned policies, and their critics, into a folder; return what was reached, for the record of a run.

    Args:
        folder: is made.
        policy: that is to be trained: whose networks, sharing, discount and seed are used.
        env: where it is to be trained.

    Raises:
        ConfigError: as `check_imitation`.
    """
    wanted = _with_rule(check_imitation(policy, env, reads=False), policy, env)
    policy = settled(policy, env)
    assignment = assign_in(policy.sharing, env.scenario)
    description = _description(wanted.teacher, policy, env, assignment)
    lesson = _lesson_of(wanted, env) if wanted.rule is None else None
    steps = lesson.steps if lesson else _played(env, wanted, policy.training.seed)
    generator = torch.Generator().manual_seed(policy.training.seed)
    actors: dict[str, nn.Module] = {}
    critics: dict[str, nn.Module] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(policy.training.seed)
        for name in assignment.policies:
            own = steps.subset(np.isin(steps.agent, assignment.indices(name)))
            actors[name] = _cloned(description.make_network(), own, wanted, generator)
            if getattr(policy.algorithm, "critic", LOCAL) == LOCAL:
                critics[name] = _valued(_critic(description), own, policy, wanted, generator)
    save_critics(folder, {name: critic.state_dict() for name, critic in critics.items()})
    save_policies(folder, description, {name: actor.state_dict() for name, actor in actors.items()})
    clone = SavedPolicy(description, actors)
    agreement = _agreement_on(lesson.held_out, clone, env) if lesson else agreement_with(wanted.teacher, clone, env)
    taught_by = {"file" if lesson else "rule": wanted.teacher}
    return taught_by | {"decisions": len(steps), "agreement": round(agreement, 4)}


def _with_rule(wanted: Imitation, policy: PolicyConfig, env: NativeEnv) -> Imitation:
    """Return what is to be cloned, with the name of a rule in place of `best`."""
    if wanted.rule != BEST:
        return wanted
    bounds = constraints_of(policy.algorithm)
    ranked = rank_rules(env.scenario.config, bounds=bounds, episodes=ranked_episodes(env), seed=policy.training.seed)
    return wanted.model_copy(update={"rule": ranked.best})


def ranked_episodes(env: NativeEnv) -> int:
    """Return on how many episodes rules are ranked: `MOST_RANKED`, or fewer where one has very many decisions."""
    one = batch_of(env.scenario, 1)
    one.reset(np.array([training_key(0, PLAYED_BY, 0, 0)], np.uint64))
    one.play("local")
    decisions = max(int(one.state.episode["choices"][0]), 1)
    return max(LEAST_RANKED, min(MOST_RANKED, RANKED_DECISIONS // decisions))


class _Lesson(NamedTuple):
    """The decisions of a file."""

    steps: AgentSteps
    """To learn from."""
    held_out: AgentSteps
    """To measure by, from other episodes."""


def _lesson_of(wanted: Imitation, env: NativeEnv) -> _Lesson:
    """Return the decisions of a file; errors as `read_decisions`, and if there is one episode alone, or no choice."""
    read = read_decisions(Path(wanted.file or ""), env)
    if read.episodes < 2:
        raise ConfigError(f"{wanted.file}: decisions of 1 episode; accepted: 2 or more, for some are held out")
    last = min(HELD_OUT_EVERY, read.episodes) - 1
    held_out = read.steps.environment % HELD_OUT_EVERY == last
    lesson = _Lesson(read.steps.subset(~held_out), read.steps.subset(held_out))
    for what, steps in zip(("learned from", "held out"), lesson, strict=True):
        if not steps.choices.any():
            raise ConfigError(f"{wanted.file}: no decision with a choice in the episodes that are {what}")
    return lesson


def _description(teacher: str, policy: PolicyConfig, env: NativeEnv, assignment: Assignment) -> PolicyDescription:
    return PolicyDescription.of(
        assignment,
        algorithm=f"imitation of {Path(teacher).name}",
        observation_size=env.observation_size,
        actions=env.num_actions,
        network=policy.network,
        rows=env.layout.blocks,
        weights=env.layout.weights,
        environment=fingerprint(env.scenario.config),
        decides=env.scenario.config.decisions.when,
        env_steps=0,
    )


def _critic(description: PolicyDescription) -> Critic:
    network = description.network
    return Critic(
        description.observation_size,
        network.hidden,
        network.activation,
        network.kind,
        description.blocks,
        network.heads,
    )


def _played(env: NativeEnv, wanted: Imitation, seed: int) -> AgentSteps:
    """Return at least as many decisions of a rule as are wanted."""
    batch: Any = batch_of(env.scenario, ENVIRONMENTS)
    recorder = Recorder(ENVIRONMENTS, tuple(batch.agents), batch.observation_size, batch.num_actions, joint=False)
    episode = 0

    def begin(which: Array) -> None:
        nonlocal episode
        keys = [training_key(seed, PLAYED_BY, int(e), episode) for e in which]
        episode += 1
        batch.reset(np.array(keys, np.uint64), which)

    begin(np.arange(ENVIRONMENTS))
    for _ in range(-(-wanted.decisions // ENVIRONMENTS)):
        actions, _ = recorder.chosen(recorder.note(batch))
        actions[:] = batch.heuristic_actions(wanted.teacher)
        if batch.step(actions):
            ended = np.flatnonzero(batch.truncated)
            for e in ended.tolist():
                recorder.close(batch, e)
            while len(ended):
                begin(ended)
                ended = ended[batch.truncated[ended]]
    return recorder.take()


def _cloned(actor: nn.Module, steps: AgentSteps, wanted: Imitation, generator: torch.Generator) -> nn.Module:
    """Return an actor that was fitted to the actions of the steps with a choice, by cross-entropy."""
    rows = torch.from_numpy(np.flatnonzero(steps.choices))
    observations, masks = torch.from_numpy(steps.observations), torch.from_numpy(steps.masks)
    actions = torch.from_numpy(steps.actions).long()

    def loss(places: Tensor) -> Tensor:
        of = rows[places]
        return nn.functional.cross_entropy(actor(observations[of], masks[of]), actions[of])

    return _fitted(actor, len(rows), loss, wanted, generator)


def _valued(
    critic: nn.Module, steps: AgentSteps, policy: PolicyConfig, wanted: Imitation, generator: torch.Generator
) -> nn.Module:
    """Return a critic that was fitted to the discounted returns of all steps whose episodes ended."""
    algorithm: Any = policy.algorithm
    nothing = np.zeros(len(steps) + len(steps.ended), np.float32)
    returns = torch.from_numpy(
        generalised_advantages(steps, nothing, gamma=algorithm.gamma, lambda_=1.0, discount_s=algorithm.discount_s)
    )
    observations = torch.from_numpy(steps.observations)

    def loss(places: Tensor) -> Tensor:
        return (critic(observations[places]) - returns[places]).square().mean()

    return _fitted(critic, len(steps), loss, wanted, generator)


def _fitted(network: nn.Module, rows: int, loss: Any, wanted: Imitation, generator: torch.Generator) -> nn.Module:
    """Return a network after Adam's passes over so many rows, with a step size that falls to 0."""
    optimizer = torch.optim.Adam(network.parameters(), wanted.lr, fused=True)
    batches = max(rows // wanted.minibatch_decisions, 1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, wanted.epochs * batches)
    for _ in range(wanted.epochs if rows else 0):
        for places in torch.randperm(rows, generator=generator).tensor_split(batches):
            optimizer.zero_grad(set_to_none=True)
            loss(places).backward()
            nn.utils.clip_grad_norm_(network.parameters(), LARGEST_NORM)
            optimizer.step()
            schedule.step()
    return network


def agreement_with(rule: str, policy: SavedPolicy, env: NativeEnv, *, seed: int = 0) -> float:
    """Return the share of a rule's decisions in held-out episodes that a policy takes greedily, too.

    The rule plays. Decisions without a choice are left out. Destinations with equal features are one: a rule draws
    among equals, and no observation says what it draws.

    Args:
        rule: that plays.
        policy: for the agents of `env`.
        env: the environment.
        seed: of the held-out episodes.
    """
    batch: Any = batch_of(env.scenario, HELD_OUT_EPISODES)
    batch.reset(held_out_keys(seed, HELD_OUT_EPISODES))
    agreed = decided = 0
    while not batch.truncated.all():
        theirs = batch.heuristic_actions(rule)
        mine = policy(batch.observations, batch.masks, agents=batch.deciding)
        asked = np.flatnonzero((batch.deciding != NONE) & ~batch.truncated & (batch.masks.sum(-1, dtype=np.int32) > 1))
        same = _same(batch.observations[asked], mine[asked], theirs[asked], env.layout.blocks)
        agreed, decided = agreed + int(same.sum()), decided + len(asked)
        batch.step(theirs)
    return agreed / max(decided, 1)


def _agreement_on(steps: AgentSteps, policy: SavedPolicy, env: NativeEnv) -> float:
    """Return the share of recorded decisions with a choice that a policy takes greedily, too."""
    mine = policy(steps.observations, steps.masks, agents=steps.agent[: len(steps)])
    same = _same(steps.observations, mine, steps.actions, env.layout.blocks)
    return float(same[steps.choices].mean())


def _same(observations: Array, one: Array, other: Array, blocks: Blocks) -> Array:
    """Return which of two actions [N] are equal, or go to destinations that look the same, [N] bool."""
    return (one == other) | _equal_destinations(observations, one, other, blocks)


def _equal_destinations(observations: Array, one: Array, other: Array, blocks: Blocks) -> Array:
    """Return which rows [N] bool of observations show the same of two actions, both elsewhere."""
    first, here, size = blocks[:3]
    if size == 0:
        return np.zeros(len(one), np.bool_)
    elsewhere = observations[:, first + here :]
    rows = elsewhere.reshape(len(observations), elsewhere.shape[1] // size, size)
    every = np.arange(len(one))
    return (one > 0) & (other > 0) & (rows[every, one - 1] == rows[every, other - 1]).all(-1)
