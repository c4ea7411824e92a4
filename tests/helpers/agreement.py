"""One episode on the simulator and on the slow reference, which must agree."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.reference.episode import Fate, reference_episode
from offload_rllib.envs.vector import ArrivalEnv, VectorEnv, held_out_keys
from offload_rllib.simulator.energy import node_energy

KEY = int(held_out_keys(7, 1)[0])


def run_reference_and_simulator(env: VectorEnv | ArrivalEnv, key: int, actions: np.ndarray) -> np.ndarray:
    """Run an episode on both, see that all fates agree, and return the simulator's task log."""
    env.reset(np.array([key], np.uint64))
    for row in actions:
        if env.truncated[0]:
            break
        env.step(row[None])
    assert env.truncated[0]
    log = env.task_log(0)
    fates, energy = reference_episode(env.scenario.config, key, actions)
    assert len(log) == len(fates)
    expected = {name: np.array([getattr(fate, name) for fate in fates]) for name in Fate._fields}
    tolerance = 1e-9 * np.maximum(1.0, log["ended_s"])
    for name in Fate._fields:
        # Times to rounding; what is counted or named, exactly.
        allowed = tolerance if name.endswith("_s") else 0.0
        wrong = np.flatnonzero(~(np.abs(log[name] - expected[name]) <= allowed))
        assert len(wrong) == 0, (
            f"{name} of task {wrong[0]}: simulator {log[wrong[0]]} of {log.dtype.names}, reference {fates[wrong[0]]}"
        )
    used = node_energy(env.scenario.arrays, env.state, 0)
    for use, joules in energy.items():
        assert used[use] == pytest.approx(joules, rel=1e-9, abs=1e-9), use
    return log
