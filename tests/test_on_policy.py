"""What PPO and A2C learn from: advantages, targets and joint states of the right steps, in fresh order at each pass."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import make_env, small_environment
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from offload_rllib.algorithms.a2c import A2C
from offload_rllib.algorithms.exchange.lesson import MOMENT
from offload_rllib.algorithms.exchange.moments import standardised
from offload_rllib.algorithms.fused.actor_critic import HAS_CHOICE
from offload_rllib.algorithms.ppo import PPO
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.policies.module import EVERYONE
from offload_rllib.rollout.fragment import Fragment
from offload_rllib.training.rllib_config import algorithm_config

STEPS, ENVS = 8, 2
# Per two steps of 1 s.
GAMMA, LAMBDA, DISCOUNT_S = 0.9, 0.7, 2.0
# Policies and their agents, in the order of the environment's: a, b, c, d.
AGENTS = {"even": ("a", "c"), "odd": ("b", "d")}


def make_learner(name: str = "PPO", **algorithm: Any) -> Any:
    """Return a learner of two policies, with random critics."""
    policy = load_policy_config(
        {
            "algorithm": {"name": name, "gamma": GAMMA, "lambda": LAMBDA, "discount_s": DISCOUNT_S}
            | {"batch_env_steps": 16, "minibatch_steps": 4}
            | algorithm,
            "sharing": {"mapping": {key: list(agents) for key, agents in AGENTS.items()}},
            "network": {"hidden": [8]},
            "training": {"runners": 0, "envs_per_runner": ENVS, "seed": 3},
        }
    )
    env = make_env(small_environment())
    config = algorithm_config(load_environment(small_environment()), policy, cpus=2)
    spaces = {module_id: (observation_space(env), action_space(env)) for module_id in AGENTS}
    learner = config.build_learner(env=None, spaces=spaces)
    torch.manual_seed(0)
    for module in learner.module.values():
        for parameter in module.unwrapped().critic.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return learner


def draw_fragment(module_id: str, features: int, seed: int) -> Fragment:
    """Return steps of two environments, in one of which an episode ends; half of the steps have a choice."""
    rng = np.random.default_rng(seed)
    agents = AGENTS[module_id]
    shape = (STEPS, ENVS, len(agents))
    masks = np.zeros((STEPS + 1, *shape[1:], 3), np.int8)
    masks[..., 0] = 1
    masks[..., 1] = rng.random(masks.shape[:-1]) < 0.5
    truncated = np.zeros((STEPS, ENVS), np.bool_)
    truncated[3, 1] = True
    return Fragment(
        module_id=module_id,
        agents=agents,
        observations=rng.uniform(-1, 1, (STEPS + 1, *shape[1:], features)).astype(np.float32),
        masks=masks,
        actions=(rng.random(shape) < 0.5).astype(np.int32) * masks[:-1, ..., 1],
        log_probabilities=rng.uniform(-2, -0.1, shape).astype(np.float32),
        rewards=rng.normal(size=shape).astype(np.float32),
        truncated=truncated,
        final_observations=rng.uniform(-1, 1, (1, len(agents), features)).astype(np.float32),
        final_masks=np.ones((1, len(agents), 3), np.int8),
    )


def draw_samples(learner: Any) -> list[Fragment]:
    """Return the fragments of both policies of two samples, in the order in which runners give them."""
    features = learner.module["even"].unwrapped().observation_space["observations"].shape[0]
    return [draw_fragment(module_id, features, seed) for seed in (1, 2) for module_id in AGENTS]


def joint(samples: list[Fragment], i: int, t: int | None, e: int) -> np.ndarray:
    """Return the observations [4, F] of all agents in the i-th sample; those of the episode's end if `t` is None."""
    parts = samples[2 * i : 2 * i + 2]
    seen = [part.final_observations[0] if t is None else part.observations[t, e] for part in parts]
    return np.concatenate(seen)


def advantages_by_definition(fragment: Fragment, e: int, a: int, value_at: Any) -> list[float]:
    """Return an agent's advantages, each as its own sum (arXiv 1506.02438, eq. 16).

    Args:
        fragment: the steps.
        e: the environment.
        a: the agent.
        value_at: gives the critic's value at a step, or with None at the end of the episode.
    """
    gamma, lambda_ = GAMMA ** (1 / DISCOUNT_S), LAMBDA ** (1 / DISCOUNT_S)
    found = []
    for start in range(STEPS):
        total, factor = 0.0, 1.0
        for t in range(start, STEPS):
            ends = bool(fragment.truncated[t, e])
            following = value_at(None if ends else t + 1)
            total += factor * (float(fragment.rewards[t, e, a]) + gamma * following - value_at(t))
            factor *= gamma * lambda_
            if ends:
                break
        found.append(total)
    return found


def value(
    network: Any, samples: list[Fragment], critic: str, place: tuple[int, int, int], fragment: Fragment, t: int | None
) -> float:
    """Return the critic's value of what an agent sees at a step, or with None at the end of its episode.

    Args:
        network: the critic.
        samples: all fragments.
        critic: local or central.
        place: the sample, the environment, the agent.
        fragment: that of the agent's policy.
        t: the step.
    """
    i, e, a = place
    own = fragment.final_observations[0, a] if t is None else fragment.observations[t, e, a]
    given = [torch.from_numpy(own[None])]
    if critic == "central":
        given.append(torch.from_numpy(joint(samples, i, t, e)))
    with torch.no_grad():
        return float(network(*given)[0])


def row_places(rows: dict[str, Any], fragments: list[Fragment]) -> list[tuple[int, int, int, int]]:
    """Return (fragment, step, environment, agent) of every row, by its observation: no two are alike."""
    places = {
        fragment.observations[t, e, a].tobytes(): (i, t, e, a)
        for i, fragment in enumerate(fragments)
        for t, e, a in np.ndindex(*fragment.actions.shape)
    }
    return [places[row.numpy().tobytes()] for row in rows[Columns.OBS]["observations"]]


@pytest.mark.parametrize("critic", ["local", "central"])
def test_rows_hold_the_advantages_targets_and_joint_states_of_their_steps(
    critic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner(critic=critic, idle_per_choice=0.5, epochs=3)
    samples = draw_samples(learner)
    seen: dict[str, list[dict[str, Any]]] = {module_id: [] for module_id in AGENTS}
    original = learner.compute_loss_for_module

    def watched(*, module_id: str, **how: Any) -> Any:
        seen[module_id].append(how["batch"])
        return original(module_id=module_id, **how)

    monkeypatch.setattr(learner, "compute_loss_for_module", watched)
    critics = {module_id: learner.module[module_id].unwrapped().critic for module_id in AGENTS}
    state = {module_id: {k: v.clone() for k, v in critics[module_id].state_dict().items()} for module_id in AGENTS}
    learner.update(episodes=samples, timesteps={}, num_epochs=3, minibatch_size=4)
    for module_id, network in critics.items():
        network.load_state_dict(state[module_id])  # values are those from before the first gradient step
        fragments = [fragment for fragment in samples if fragment.module_id == module_id]
        wanted = {}
        for i, fragment in enumerate(fragments):
            for e, a in np.ndindex(ENVS, 2):
                value_at = partial(value, network, samples, critic, (i, e, a), fragment)
                for t, advantage in enumerate(advantages_by_definition(fragment, e, a, value_at)):
                    wanted[i, t, e, a] = (advantage, advantage + value_at(t))
        batches = seen[module_id]
        per_pass = len(batches) // 3
        passes = [batches[first : first + per_pass] for first in range(0, len(batches), per_pass)]
        assert all(4 <= len(batch[HAS_CHOICE]) < 8 for batch in batches), "what does not fill a minibatch is spread"
        orders = [[place for batch in one for place in row_places(batch, fragments)] for one in passes]
        assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2]), "every pass sees every row"
        assert len(set(orders[0])) == len(orders[0])
        assert orders[0] != orders[1], "minibatches are drawn anew for every pass"
        assert orders[1] != orders[2]
        choices = {
            (i, t, e, a) for i, fragment in enumerate(fragments) for t, e, a in np.argwhere(fragment.choices).tolist()
        }
        assert choices <= set(orders[0])
        idle = sum(round(0.5 * int(fragment.choices.sum())) for fragment in fragments)
        assert len(orders[0]) == len(choices) + idle
        of_choices = np.array([wanted[place][0] for place in choices])
        for batch in batches:
            for row, (i, t, e, a) in enumerate(row_places(batch, fragments)):
                fragment = fragments[i]
                assert bool(batch[HAS_CHOICE][row]) == ((i, t, e, a) in choices)
                assert int(batch[Columns.ACTIONS][row]) == fragment.actions[t, e, a]
                assert float(batch[Columns.ACTION_LOGP][row]) == fragment.log_probabilities[t, e, a]
                assert batch[Columns.OBS]["action_mask"][row].tolist() == fragment.masks[t, e, a].tolist()
                advantage, target = wanted[i, t, e, a]
                scaled = (advantage - of_choices.mean()) / of_choices.std(ddof=1)
                assert float(batch[Postprocessing.ADVANTAGES][row]) == pytest.approx(scaled, abs=1e-4)
                assert float(batch[Postprocessing.VALUE_TARGETS][row]) == pytest.approx(target, abs=1e-4)
                if critic == "central":
                    # Behind the steps of a sample come the states after them and the end of one episode.
                    assert int(batch[MOMENT][row]) == i * ((STEPS + 1) * ENVS + 1) + t * ENVS + e
                    assert (batch[EVERYONE][row].numpy() == joint(samples, i, t, e)).all()


def test_advantages_are_standardised_over_choices() -> None:
    advantages, chosen = torch.tensor([1.0, 2.0, 6.0, 100.0]), torch.tensor([True, True, True, False])
    found = standardised(advantages, chosen)
    assert found[chosen].mean().item() == pytest.approx(0, abs=1e-6)
    assert found[chosen].std().item() == pytest.approx(1)
    assert found.tolist() == pytest.approx([(one - 3) / 7**0.5 for one in (1, 2, 6, 100)])
    alone = torch.tensor([True, False, False, False])
    assert standardised(advantages, alone).tolist() == advantages.tolist()
    assert standardised(torch.ones(4), chosen).tolist() == [0.0] * 4


@pytest.mark.parametrize(("algorithm", "epochs"), [(PPO, 7), (A2C, 1)])
def test_an_iteration_samples_one_batch_and_learns_from_it_as_configured(algorithm: Any, epochs: int) -> None:
    asked: list[Any] = []
    trainer = SimpleNamespace(
        config=SimpleNamespace(num_learners=0, total_train_batch_size=640, num_epochs=epochs, minibatch_size=48),
        sample=lambda env_steps: asked.append(env_steps) or ["fragments"],
        learn=lambda fragments, **how: asked.append((fragments, how)),
    )
    trainer.iterate = partial(algorithm.iterate, trainer)
    algorithm.training_step(trainer)
    assert asked == [640, (["fragments"], {"num_epochs": epochs, "minibatch_size": 48})]
