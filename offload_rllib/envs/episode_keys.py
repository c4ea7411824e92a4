"""The keys of episodes: from an address to 64 bits."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.streams import episode_key

# Reserved first part of an episode's address, so that no purpose ever reuses another's episodes.
TRAINING = 0
HELD_OUT = 1


def training_key(seed: int, worker: int, environment: int, episode: int) -> int:
    """Return the key of a training episode; distinct for every worker, environment and episode."""
    return episode_key(TRAINING, seed, worker, environment, episode)


def held_out_keys(seed: int, episodes: int) -> np.ndarray:
    """Return the keys [episodes] uint64 of evaluation episodes, never used in training."""
    return np.array([episode_key(HELD_OUT, seed, episode) for episode in range(episodes)], np.uint64)
