"""Where tasks are decided as they arrive, learners come close to the best known decisions of small networks.

The networks are those of `test_optimal`. In `two_nodes_arrival` every task belongs on the fast node: every algorithm
finds that to the last digit, with a shared policy and with one per node.

In `three_nodes_arrival` the fast node cannot serve everything, and the one that finishes a task first is not best for
all. The best is known by dynamic programming (see `helpers.arrival_optimum`).

PPO ends 1 to 3 % above the best, greedy. With the entropy's sign wrong it ends 19 to 31 % above, with 0.99 for gamma
and 1 for lambda 5 to 49 %, with the larger of the surrogate's terms it keeps every task (20 times the best). Advantages
that are not standardised are not seen here; `test_on_policy` holds them by value. PPO with a policy per node ends 2 %
above, and APPO 2 to 4 %. DDQN, whose targets hold the noise of all agents' rewards, ends 10 % above after six times as
many decisions; the rule that finishes a task first is 24 % above.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.arrival_optimum import ArrivalProgramming
from helpers.optimum import Reluctant, Split, contender

from offload_rllib.config import EnvironmentConfig, load_environment, load_policy_config
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.evaluation.results import Comparison
from offload_rllib.training.rllib_config import algorithm_config

ENVIRONMENTS = Path(__file__).parent / "data" / "environments"
TWO, THREE = (load_environment(ENVIRONMENTS / f"{name}_arrival.yaml") for name in ("two_nodes", "three_nodes"))
EPISODES = 100
SCORE = "score_mean_s"
ON_POLICY: dict[str, Any] = {
    "lr": 3e-3,
    "final_lr": 1e-4,
    "gamma": 0.9,
    "lambda": 0.8,
    # Large enough that exploration with the wrong sign is seen in the score.
    "entropy_coeff": 0.1,
    "final_entropy_coeff": 0.0,
}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "PPO": ON_POLICY | {"epochs": 8, "minibatch_steps": 256, "batch_env_steps": 2048},
    "A2C": ON_POLICY | {"minibatch_steps": 128, "batch_env_steps": 512},
    "APPO": ON_POLICY
    | {
        "fragment_steps": 64,
        "batch_env_steps": 512,
        "minibatch_steps": 256,
        "uses_per_batch": 4,
        # Samples get older beside other work. With fewer uses, or with the target a quarter as long in place, one
        # training of three ended at 25 % then.
        "least_uses_per_batch": 4.0,
        "buffer_batches": 4,
        "target_update_every": 16,
        "report_env_steps": 4096,
    },
    "DDQN": {
        "lr": 5e-4,
        "final_lr": 1e-5,
        "gamma": 0.98,
        "n_step": 10,
        "batch_transitions": 512,
        "priority_alpha": 0.0,
        "replay_ratio": 8.0,
        "target_update_every": 100,
        "learning_starts": 500,
        "epsilon_decay_env_steps": 30_000,
        "sample_env_steps": 160,
        "batch_env_steps": 3200,
    },
}
# Action values are learned in units of the reward.
DDQN_SCALE = {"two": 0.05, "three": 0.03}
ENV_STEPS = {
    "two": {"PPO": 40_960, "A2C": 40_960, "APPO": 40_960, "DDQN": 60_000},
    "three": {"PPO": 61_440, "A2C": 122_880, "APPO": 122_880, "DDQN": 400_000},
}
PER_NODE_ENV_STEPS = 122_880
# Of one training, chance decides more than most faults do.
SEEDS = (1, 2, 3)
# Means over the seeds, times the best. How old APPO's samples are depends on the machine's load.
GREEDY = {"PPO": 1.06, "A2C": 1.06, "APPO": 1.1}
SAMPLED = 1.1
DDQN_GREEDY = 1.15


@pytest.fixture(scope="module")
def reference() -> Comparison:
    """Return the best policy (the first) and simpler rules, on the held-out episodes."""
    rules = [
        contender(ArrivalProgramming(tasks_per_second=4.4)),
        *make_contenders(["shortest_finish", "local", "always_server"]),
        *(contender(Reluctant(margin_s)) for margin_s in (0.2, 0.4, 0.5, 0.55, 0.6, 0.8, 1.0)),
        *(contender(Split(probability)) for probability in (0.5, 0.6, 0.7, 0.8, 0.9)),
    ]
    return evaluate(THREE, rules, episodes=EPISODES)


def scaled(environment: EnvironmentConfig, scale: float) -> EnvironmentConfig:
    """Return an environment with another scale of the rewards."""
    return environment.model_copy(update={"reward": environment.reward.model_copy(update={"scale": scale})})


def mean_s(comparison: Comparison, policy: str) -> float:
    return float(comparison.of(policy, SCORE).mean())


@pytest.mark.slow
def test_the_optimum_is_no_worse_than_any_simpler_rule(reference: Comparison) -> None:
    best = mean_s(reference, reference.policies[0])
    for rule in reference.policies[1:]:
        print(rule, mean_s(reference, rule))
        # The chain counts time in steps: over 800 episodes a rule was 0.3 % better.
        assert mean_s(reference, rule) > 0.99 * best, rule
    # What tempts a learner is far from the optimum.
    assert mean_s(reference, "always_server") > 3 * best
    assert mean_s(reference, "shortest_finish") > 1.15 * best


def trained(
    environment: EnvironmentConfig, algorithm: str, sharing: str, env_steps: int, seeds: Iterable[int], folder: Path
) -> np.ndarray:
    """Train with every seed; return the mean scores on held-out episodes: greedy and, but for DDQN, sampled."""
    # APPO samples while it learns, in processes of their own.
    where = {"runners": 1, "envs_per_runner": 8} if algorithm == "APPO" else {"runners": 0, "envs_per_runner": 16}
    began, scores = time.process_time(), []
    for seed in seeds:
        policy = load_policy_config(
            {
                "sharing": sharing,
                "algorithm": {"name": algorithm} | ALGORITHMS[algorithm],
                "training": where | {"env_steps": env_steps, "seed": seed},
            }
        )
        learner = algorithm_config(environment, policy, cpus=2).build_algo()
        try:
            while learner.env_steps < env_steps:
                learner.train()
            learner.save_checkpoint(str(folder / f"seed_{seed}"))
        finally:
            learner.stop()
        played = evaluate(environment, make_contenders([str(folder / f"seed_{seed}")]), episodes=EPISODES)
        scores.append([mean_s(played, policy) for policy in played.policies])
    print(f"{algorithm} {sharing} {np.round(scores, 4).tolist()}; {time.process_time() - began:.0f} CPU s")
    return np.mean(scores, axis=0)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("sharing", ["shared", "per_node"])
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_where_one_decision_is_best_everybody_finds_it(algorithm: str, sharing: str, tmp_path: Path) -> None:
    rules = evaluate(TWO, make_contenders(["shortest_finish", "local", "random"]), episodes=EPISODES)
    best = mean_s(rules, "shortest_finish")
    assert mean_s(rules, "random") > 20 * best
    assert mean_s(rules, "local") > 20 * best
    environment = scaled(TWO, DDQN_SCALE["two"]) if algorithm == "DDQN" else TWO
    greedy, *sampled = trained(environment, algorithm, sharing, ENV_STEPS["two"][algorithm], [1], tmp_path)
    assert greedy <= 1.01 * best
    # How many gradient steps APPO takes meanwhile depends on the machine, and with them what is left of exploration.
    if algorithm in {"PPO", "A2C"}:
        assert sampled[0] <= 1.05 * best


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("algorithm", "sharing"), [("A2C", "shared"), ("APPO", "shared"), ("PPO", "shared"), ("PPO", "per_node")]
)
def test_learned_policies_come_close_to_the_optimum(
    algorithm: str, sharing: str, reference: Comparison, tmp_path: Path
) -> None:
    env_steps = ENV_STEPS["three"][algorithm] if sharing == "shared" else PER_NODE_ENV_STEPS
    greedy, sampled = trained(THREE, algorithm, sharing, env_steps, SEEDS, tmp_path)
    best = mean_s(reference, reference.policies[0])
    assert greedy <= GREEDY[algorithm] * best
    assert sampled <= SAMPLED * best


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
def test_action_values_come_closer_to_the_optimum_than_any_rule_of_thumb(reference: Comparison, tmp_path: Path) -> None:
    environment = scaled(THREE, DDQN_SCALE["three"])
    greedy, *_ = trained(environment, "DDQN", "shared", ENV_STEPS["three"]["DDQN"], [1], tmp_path)
    assert greedy <= DDQN_GREEDY * mean_s(reference, reference.policies[0])
