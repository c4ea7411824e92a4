"""In small networks whose best decisions are known, every algorithm finds them; here all agents act at intervals.

`two_nodes`: whoever makes a task, it belongs on the fast node, for it takes 0.1 s there and 1 s on the slow one. A
task gains on the slow node only when ten wait at the fast one, which its load of 0.3 all but rules out. So "the fast
one, always" is optimal; under a shared policy that is another action for each agent.

`three_nodes`: the fast node cannot serve everything, and the one that finishes a task first is not best for all: who
takes it makes those behind wait. The best is known by dynamic programming (see `helpers.optimum`), and held against a
grid of simpler rules.

These are tests of the whole: that observations, rewards, credit, sharing and saving suffice to find the optimum. They
do not tell one loss from another. In networks this small a learner finds it with several terms wrong at once, and
single terms are held by value in `test_losses`, `test_on_policy`, `test_appo` and `test_ddqn`.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.optimum import DynamicProgramming, Reluctant, Split, contender

from offload_rllib.config import EnvironmentConfig, load_environment, load_policy_config
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.evaluation.results import Comparison
from offload_rllib.training.rllib_config import algorithm_config

ENVIRONMENTS = Path(__file__).parent / "data" / "environments"
EPISODES = 100
SCORE = "score_mean_s"
CLOSE = 1.05

ALGORITHMS: dict[str, dict[str, Any]] = {
    "PPO": {
        "lr": 1e-3,
        "final_lr": 1e-5,
        "gamma": 0.99,
        "lambda": 0.95,
        "entropy_coeff": 0.003,
        "final_entropy_coeff": 0.0,
        "minibatch_steps": 256,
        "batch_env_steps": 6400,
    },
    "A2C": {
        "lr": 1e-3,
        "final_lr": 1e-5,
        "gamma": 0.99,
        "lambda": 0.95,
        "entropy_coeff": 0.02,  # runs with less ended at "always the fast one"
        "final_entropy_coeff": 0.0,
        "minibatch_steps": 128,
        "batch_env_steps": 1600,
    },
    "DDQN": {
        "lr": 5e-4,
        "final_lr": 1e-5,
        "gamma": 0.98,
        "batch_transitions": 512,
        # Runs with 1 ended worse on both networks.
        "n_step": 10,
        "priority_alpha": 0.0,
        "replay_ratio": 8.0,
        "target_update_every": 100,
        "learning_starts": 500,
        "epsilon_decay_env_steps": 30_000,
        "sample_env_steps": 160,
        "batch_env_steps": 3200,
    },
}
ENV_STEPS = {
    "two_nodes": {"PPO": 96_000, "A2C": 192_000, "DDQN": 96_000},
    "three_nodes": {"PPO": 384_000, "A2C": 1_920_000, "DDQN": 1_200_000},
}
INTERVAL_S = {"two_nodes": 0.05, "three_nodes": 0.1}
# Action values are learned in units of the reward: at scale 1 DDQN stays at "always here" in two_nodes, at 0.03 and 0.1
# it finds the optimum (seeds 1 to 3 and 1 to 2); advantages are standardised anyway.
DDQN_SCALE = 0.03
# Policies that do not share see the transitions of their own nodes alone: replayed as often as a shared one's they make
# too few gradient steps, and two_nodes ends at 5 s.
DDQN_UNSHARED = {"replay_ratio": 32.0}
DDQN_UNSHARED_ENV_STEPS = 384_000
# A policy per device is the same as one per node in `two_nodes`, and as a shared one in `three_nodes`. That policies
# per node find the optimum of three nodes is shown in `test_optimal_arrival`, in a tenth of the time.
CASES = [
    *itertools.product(["two_nodes"], sorted(ALGORITHMS), ["shared", "per_node"]),
    *itertools.product(["three_nodes"], sorted(ALGORITHMS), ["shared"]),
]


def environment(name: str, *overrides: str) -> EnvironmentConfig:
    return load_environment(ENVIRONMENTS / f"{name}.yaml", overrides)


@pytest.fixture(scope="module")
def references() -> dict[str, Comparison]:
    """Return, for each network, its best policy (the first) and simpler rules, on the held-out episodes."""
    two = [*make_contenders(["shortest_finish", "local", "random"])]
    two += [contender(Reluctant(margin_s)) for margin_s in (-0.6, -0.3, 0.3, 0.6, 1.0)]
    three = [
        contender(DynamicProgramming(tasks_per_step=0.22)),
        *make_contenders(["shortest_finish", "local", "always_server"]),
        *(contender(Reluctant(margin_s)) for margin_s in (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)),
        *(contender(Split(probability)) for probability in (0.5, 0.6, 0.7, 0.75, 0.8, 0.9)),
    ]
    return {
        "two_nodes": evaluate(environment("two_nodes"), two, episodes=EPISODES),
        "three_nodes": evaluate(environment("three_nodes"), three, episodes=EPISODES),
    }


def optimum_s(reference: Comparison) -> float:
    return float(reference.of(reference.policies[0], SCORE).mean())


@pytest.mark.slow
def test_the_optimum_is_no_worse_than_any_simpler_rule(references: dict[str, Comparison]) -> None:
    for reference in references.values():
        best = reference.of(reference.policies[0], SCORE)
        for rule in reference.policies[1:]:
            print(rule, reference.of(rule, SCORE).mean())
            assert reference.of(rule, SCORE).mean() >= best.mean() * 0.9999, rule
    two, three = references["two_nodes"], references["three_nodes"]
    # Always the fast node: half an interval until the decision, 0.1 s of service, two links of 1 ms for half of the
    # tasks, and some waiting; no policy gets below the first three.
    assert 0.125 + 0.001 < optimum_s(two) < 0.155
    np.testing.assert_allclose(two.of("shortest_finish", "offloaded_share").mean(), 0.5, atol=0.01)
    # What tempts a learner is far from the optimum.
    assert three.of("always_server", SCORE).mean() > 3 * optimum_s(three)
    assert three.of("shortest_finish", SCORE).mean() > 1.15 * optimum_s(three)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("network", "algorithm", "sharing"), CASES)
def test_learned_policies_come_close_to_the_optimum(
    network: str, algorithm: str, sharing: str, references: dict[str, Comparison], tmp_path: Path
) -> None:
    unshared_ddqn = algorithm == "DDQN" and sharing != "shared"
    env_steps = DDQN_UNSHARED_ENV_STEPS if unshared_ddqn else ENV_STEPS[network][algorithm]
    more = DDQN_UNSHARED if unshared_ddqn else {}
    policy = load_policy_config(
        {
            "sharing": sharing,
            # gamma and lambda apply once per interval.
            "algorithm": {"name": algorithm, "discount_s": INTERVAL_S[network]} | ALGORITHMS[algorithm] | more,
            "training": {"runners": 0, "envs_per_runner": 16, "env_steps": env_steps, "seed": 1},
        }
    )
    scale = [f"reward.scale={DDQN_SCALE}"] if algorithm == "DDQN" else []
    learner = algorithm_config(environment(network, *scale), policy, cpus=2).build_algo()
    began = time.process_time()
    try:
        while learner.env_steps < policy.training.env_steps:
            learner.train()
        learner.save_checkpoint(str(tmp_path / "learned"))
    finally:
        learner.stop()
    cpu_s = time.process_time() - began
    evaluation = evaluate(environment(network), make_contenders([str(tmp_path / "learned")]), episodes=EPISODES)
    greedy, sampled = (evaluation.of(name, SCORE).mean() for name in evaluation.policies)
    best = optimum_s(references[network])
    print(
        f"{network} {algorithm} {sharing}: greedy {greedy:.4f} sampled {sampled:.4f} optimum {best:.4f} s; "
        f"{cpu_s:.0f} CPU s"
    )
    assert greedy <= CLOSE * best
