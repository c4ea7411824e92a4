"""Speed of the replay memory: adding fragments, and drawing batches uniformly and by priority.

Usage: python benchmarks/replay.py [--capacity 200000] [--batch 256] [--repeats 5]

Observations have 158 floats and 12 actions; one agent step in twenty has a choice. Figures are medians of the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from offload_rllib.rollout.fragment import Fragment
from offload_rllib.rollout.replay import ReplayBuffer

FEATURES = 158
ACTIONS = 12


def fragment(seed: int, *, steps: int, environments: int, agents: int, choice_share: float) -> Fragment:
    """Return random steps; episodes end every 1,000 steps."""
    rng = np.random.default_rng(seed)
    shape = (environments, agents)
    truncated = np.zeros((steps, environments), bool)
    truncated[999::1000] = True
    masks = np.zeros((steps + 1, *shape, ACTIONS), np.int8)
    masks[..., 0] = 1
    masks[..., 1:] = (rng.random((steps + 1, *shape)) < choice_share)[..., None]
    ended = int(truncated.sum())
    return Fragment(
        module_id="shared",
        agents=(),
        observations=rng.random((steps + 1, *shape, FEATURES), np.float32),
        masks=masks,
        actions=np.zeros((steps, *shape), np.int32),
        log_probabilities=np.zeros((steps, *shape), np.float32),
        rewards=rng.random((steps, *shape), np.float32),
        truncated=truncated,
        final_observations=rng.random((ended, agents, FEATURES), np.float32),
        final_masks=masks[0, 0][None].repeat(ended, 0),
    )


def median_s(work: Callable[[], object], repeats: int, calls: int) -> float:
    """Return the CPU seconds of one call: the median over repeats of the mean over calls."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(calls):
            work()
        seconds.append((time.process_time() - start) / calls)
    return statistics.median(seconds)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capacity", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    batch = arguments.batch

    filling = fragment(0, steps=1000, environments=4, agents=12, choice_share=1.0)
    sparse = fragment(1, steps=200, environments=16, agents=12, choice_share=0.05)
    figures = []
    for kind, alpha in (("uniform", None), ("prioritised", 0.6)):
        buffer = ReplayBuffer(arguments.capacity, FEATURES, ACTIONS, gamma=0.99, n_step=3, alpha=alpha)
        buffer.add(sparse)
        buffer.sample(batch)
        while len(buffer) < 0.95 * arguments.capacity:
            before = len(buffer)
            buffer.add(filling)
            if len(buffer) <= before:
                break

        rng = np.random.default_rng(0)

        def draw(buffer: ReplayBuffer = buffer) -> None:
            buffer.sample(batch, beta=0.4)

        def draw_and_update(buffer: ReplayBuffer = buffer, rng: np.random.Generator = rng) -> None:
            drawn = buffer.sample(batch, beta=0.4)
            buffer.update_priorities(drawn.states, rng.random(batch))

        work = draw if alpha is None else draw_and_update
        what = "a batch" if alpha is None else "a batch and its new priorities"
        seconds = median_s(work, arguments.repeats, 1000)
        adding = median_s(lambda buffer=buffer: buffer.add(sparse), arguments.repeats, 5)
        print(
            f"{kind}: {buffer.nbytes / 2**20:.0f} MiB for {arguments.capacity:,} states, "
            f"adding {1e9 * adding / sparse.agent_steps:.0f} ns per agent step"
        )
        figures.append(f"{kind}, {what} of {batch}: {1e3 * seconds:.3f} ms")
    print("\n".join(figures))


if __name__ == "__main__":
    main()
