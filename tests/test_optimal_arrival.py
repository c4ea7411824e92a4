"""Where tasks are decided as they arrive, learners come close to the best known decisions of a small network.

The network is that of `three_nodes`: the fast node cannot serve everything, and the one that finishes a task first is
not best for all. The best is known by dynamic programming (see `helpers.arrival_optimum`).

PPO ends 1 to 3 % above the best, greedy. With the entropy's sign wrong it ends 19 to 31 % above, with 0.99 for gamma
and 1 for lambda 5 to 49 %, with the larger of the surrogate's terms it keeps every task (20 times the best). Advantages
that are not standardised are not seen here; `test_on_policy` holds them by value.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.arrival_optimum import ArrivalProgramming
from helpers.optimum import Reluctant, Split, contender

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.evaluation.results import Comparison
from offload_rllib.training.rllib_config import algorithm_config

ENVIRONMENT = load_environment(Path(__file__).parent / "data" / "environments" / "three_nodes_arrival.yaml")
EPISODES = 100
SCORE = "score_mean_s"
# Three trainings each: of one, chance decides more than most faults do.
SEEDS = (1, 2, 3)
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
}
ENV_STEPS = {"PPO": 61_440, "A2C": 122_880}
# Means over the seeds, times the best.
GREEDY, SAMPLED = 1.06, 1.1


@pytest.fixture(scope="module")
def reference() -> Comparison:
    """Return the best policy (the first) and simpler rules, on the held-out episodes."""
    rules = [
        contender(ArrivalProgramming(tasks_per_second=4.4)),
        *make_contenders(["shortest_finish", "local", "always_server"]),
        *(contender(Reluctant(margin_s)) for margin_s in (0.2, 0.4, 0.5, 0.55, 0.6, 0.8, 1.0)),
        *(contender(Split(probability)) for probability in (0.5, 0.6, 0.7, 0.8, 0.9)),
    ]
    return evaluate(ENVIRONMENT, rules, episodes=EPISODES)


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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_learned_policies_come_close_to_the_optimum(name: str, reference: Comparison, tmp_path: Path) -> None:
    scores = []
    began = time.process_time()
    for seed in SEEDS:
        training = {"runners": 0, "envs_per_runner": 16, "env_steps": ENV_STEPS[name], "seed": seed}
        policy = load_policy_config(
            {"sharing": "shared", "algorithm": {"name": name} | ALGORITHMS[name], "training": training}
        )
        learner = algorithm_config(ENVIRONMENT, policy, cpus=2).build_algo()
        folder = str(tmp_path / f"seed_{seed}")
        try:
            while learner.env_steps < ENV_STEPS[name]:
                learner.train()
            learner.save_checkpoint(folder)
        finally:
            learner.stop()
        played = evaluate(ENVIRONMENT, make_contenders([folder]), episodes=EPISODES)
        scores.append([mean_s(played, policy) for policy in played.policies])
    best = mean_s(reference, reference.policies[0])
    greedy, sampled = np.mean(scores, axis=0)
    print(f"{np.round(scores, 4).tolist()}; the best {best:.4f} s; {time.process_time() - began:.0f} CPU s")
    assert greedy <= GREEDY * best
    assert sampled <= SAMPLED * best
