"""Size of a sampled batch: bytes for each choice in it, with decisions at arrivals and with a clock.

Usage: python benchmarks/batch_bytes.py [--env ether_12] [--choices 4000]

What a runner hands over is counted as it travels to a learner: pickled, with all its columns. Where a clock asks every
agent once per interval, most rows hold no choice, and they travel as well.
"""

from __future__ import annotations

import argparse
import pickle
from typing import Any

import torch

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.rollout.runner import BatchedEnvRunner
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import quieten

FORMS = {"arrival": "decisions={when: arrival, max_hops: 2}", "interval": "decisions={when: interval, max_hops: 2}"}
ENVIRONMENTS = 16


def bytes_per_choice(env: str, form: str, choices: int) -> float:
    """Sample at least so many choices in one form, print what they are, and return the bytes of one.

    Args:
        env: name or file of an environment.
        form: a key of `FORMS`.
        choices: at least so many; what is sampled first is not counted, for the network starts empty.
    """
    environment = load_environment(env, [FORMS[form]])
    policy = load_policy_config("ppo", ["training.runners=0", f"training.envs_per_runner={ENVIRONMENTS}"])
    runner: Any = BatchedEnvRunner(config=algorithm_config(environment, policy, cpus=1), worker_index=0)
    steps, size, found = ENVIRONMENTS * 250, 0, 0
    runner.sample(num_timesteps=steps, explore=True)
    while found < choices:
        samples = runner.sample(num_timesteps=steps, explore=True)
        size += sum(len(pickle.dumps(sample, protocol=pickle.HIGHEST_PROTOCOL)) for sample in samples)
        found += sum(int(sample.choices.sum()) for sample in samples)
    print(f"{form}: {found:,} choices in {size / 1e6:.1f} MB, {size / found:,.0f} bytes per choice")
    return size / found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="ether_12", help="name or file of an environment")
    parser.add_argument("--choices", type=int, default=4000, help="sampled in each form, at least")
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    arrival, interval = (bytes_per_choice(arguments.env, form, arguments.choices) for form in FORMS)
    print(f"bytes at arrivals relative to a clock: 1/{interval / arrival:.1f}")


if __name__ == "__main__":
    main()
