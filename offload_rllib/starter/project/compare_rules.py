"""Play the environment with the rules, and print how they score: python compare_rules.py [EPISODES]."""

import sys
from pathlib import Path

import numpy as np

import offload_rllib

ENVIRONMENT = Path(__file__).with_name("environment.yaml")
RULES = ("shortest_finish", "size_interval", "least_queue", "random", "local")


def scores_of(name: str, episodes: int) -> np.ndarray:
    """Return the mean score of each held-out episode, s.

    Args:
        name: a rule, or the folder of a run: ``runs/environment-policy-1``.
        episodes: how many.
    """
    env = offload_rllib.vector_env(ENVIRONMENT, num_envs=episodes)
    policy = offload_rllib.load_policy(name).on(env)
    env.reset(offload_rllib.held_out_keys(seed=0, episodes=episodes))  # the same arrivals for all policies
    while not env.truncated.all():
        env.step(policy(env.observations, env.masks, agents=env.deciding))
    return np.array([env.episode_metrics(e)["score_mean_s"] for e in range(episodes)])


def main() -> None:
    """Print a table; lower is better."""
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    best = scores_of(RULES[0], episodes)
    print(f"{'rule':16} {'score, s':>9} {'minus ' + RULES[0]:>22}")
    for rule in RULES:
        scores = scores_of(rule, episodes)
        print(f"{rule:16} {scores.mean():9.2f} {(scores - best).mean():+22.2f}")


if __name__ == "__main__":
    main()
