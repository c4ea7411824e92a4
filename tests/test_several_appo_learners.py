"""Several learners of APPO: each learns from batches of its own, they average, and none waits for another in vain."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import small_environment
from helpers.learners import same, weights_of
from ray import cloudpickle
from ray.rllib.algorithms.appo.utils import CircularBuffer
from ray.rllib.core.learner.training_data import TrainingData

from offload_rllib.algorithms.appo_learner import APPOLearner, would_drop
from offload_rllib.algorithms.exchange.threads import together
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.policies.sharing import SHARED
from offload_rllib.rollout.episodes_runner import EpisodesEnvRunner
from offload_rllib.training.rllib_config import algorithm_config

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes cannot import the tests

SMALL = {
    "name": "APPO",
    "fragment_steps": 20,
    "batch_env_steps": 160,
    "minibatch_steps": 64,
    "exchange_uses": 1,
    "lr": 0.01,
}


def make(
    count: int, *, sharing: Any = "shared", batches: int = 2, **algorithm: Any
) -> tuple[list[APPOLearner], list[dict[str, Any]]]:
    """Return learners with the same weights, in one process, and batches of unequal size."""
    policy = load_policy_config(
        {
            "algorithm": SMALL | algorithm,
            "sharing": sharing,
            "network": {"hidden": [8]},
            "training": {"runners": 1, "envs_per_runner": 4, "seed": 3},
        }
    )
    config = algorithm_config(load_environment(small_environment()), policy, cpus=8)
    runner = EpisodesEnvRunner(config=config, worker_index=1)
    learners: list[Any] = [config.build_learner(env=None, spaces=runner.get_spaces()) for _ in range(count)]
    runner.module.set_state(learners[0].module.get_state(inference_only=True))
    data = [TrainingData(episodes=runner.sample(num_timesteps=80 * (1 + i))) for i in range(batches)]
    return learners, [learners[0]._make_batch_if_necessary(one).policy_batches for one in data]


def end(learners: list[APPOLearner]) -> None:
    """End their threads."""
    for learner in learners:
        learner.shutdown()


def targets_of(learner: APPOLearner) -> list[torch.Tensor]:
    """Return the weights of all target networks."""
    return [
        parameter.clone()
        for module_id in list(learner.module.keys())
        for _, target in learner.network(module_id).get_target_network_pairs()
        for parameter in target.parameters()
    ]


def rows_learned_from(learner: Any, batch: dict[str, Any]) -> int:
    """Use a batch once; return how many of its rows were learned from."""
    learn, rows = learner._learn, []

    def counted(*given: Any) -> Any:
        loss, size = learn(*given)
        rows.append(size)
        return loss, size

    learner._learn = counted
    learner._update(batch)
    return rows[0]


@pytest.mark.parametrize("sharing", ["shared", "per_node"])
def test_one_learner_that_meets_nobody_is_the_plain_algorithm_bit_for_bit(sharing: str) -> None:
    learners, batches = make(2, sharing=sharing, target_update_every=3)
    plain, meets = learners
    for _ in range(4):
        for batch in batches:
            plain._update(batch)
            together([meets], lambda learner, _, batch=batch: learner._update(batch))
    wanted, found = weights_of(plain), weights_of(meets)
    assert all(same(wanted[module_id], found[module_id]) for module_id in wanted)
    assert all(torch.equal(*pair) for pair in zip(targets_of(plain), targets_of(meets), strict=True))
    end(learners)


def test_weights_and_moments_are_averages_by_rows_of_what_each_has_learned() -> None:
    learners, batches = make(4, target_update_every=1)
    *pair, one, other = learners
    rows = [rows_learned_from(learner, batch) for learner, batch in zip((one, other), batches, strict=True)]
    assert rows[1] > 1.5 * rows[0]
    together(pair, lambda learner, index: learner._update(batches[index]))
    shares = np.array(rows) / sum(rows)
    found, parts = weights_of(pair[0])[SHARED], [weights_of(learner)[SHARED] for learner in (one, other)]
    for key, value in found.items():
        if key.endswith(" step"):
            assert value == max(rows) // 64 > min(rows) // 64
        elif not key.startswith("target"):
            wanted = shares[0] * parts[0][key] + shares[1] * parts[1][key]
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-7, err_msg=key)
    assert same(found, weights_of(pair[1])[SHARED]), "target networks too, which moved once the weights were averaged"
    actor = [value for key, value in found.items() if key.startswith("actor") and " " not in key]
    for value, target in zip(actor, targets_of(pair[0]), strict=True):
        np.testing.assert_array_equal(value, target)
    end(learners)


def test_a_learner_without_a_choice_takes_over_what_the_others_have_learned() -> None:
    learners, batches = make(2, target_update_every=1)
    idle, busy = batches
    masks = idle[SHARED]["obs"]["action_mask"]
    masks[:, 1:] = 0
    alone = weights_of(learners[0])[SHARED]
    for batch in (idle, busy):
        together(learners, lambda learner, index, batch=batch: learner._update(batch if index else idle))
        first, second = (weights_of(learner)[SHARED] for learner in learners)
        assert same(first, second)
        assert np.array_equal(first["actor.scores.0.weight"], alone["actor.scores.0.weight"]) == (batch is idle)
    end(learners)


def test_they_meet_after_as_many_uses_as_asked_for() -> None:
    learners, batches = make(2, exchange_uses=3, target_update_every=1)
    before = targets_of(learners[0])
    for uses in range(1, 7):
        together(learners, lambda learner, index: learner._update(batches[index]))
        first, second = (weights_of(learner)[SHARED] for learner in learners)
        assert same(first, second) == (uses % 3 == 0), uses
        targets = targets_of(learners[0])
        assert all(torch.equal(*pair) for pair in zip(targets, before, strict=True)) == (uses % 3 > 0), uses
        before = targets
    end(learners)


def test_target_networks_of_all_move_together_at_the_first_meeting_at_which_they_are_due() -> None:
    learners, batches = make(2, target_update_every=5, minibatch_steps=100_000)  # a step per use
    moved = []
    before = targets_of(learners[0])
    for _ in range(11):
        together(learners, lambda learner, index: learner._update(batches[index]))
        first, second = (targets_of(learner) for learner in learners)
        assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
        moved.append(not all(torch.equal(*pair) for pair in zip(first, before, strict=True)))
        before = first
    assert [step for step, has in enumerate(moved, 1) if has] == [5, 10]
    end(learners)


def test_a_buffer_is_given_a_batch_only_where_it_would_drop_none() -> None:
    rng = np.random.default_rng(5)
    for batches, uses in ((1, 1), (1, 3), (4, 1), (3, 4)):
        buffer = CircularBuffer(batches, uses)
        given = taken = 0
        for _ in range(300):
            left = given * uses - taken
            if rng.random() < 0.5 and len(buffer):
                buffer.get()
                taken += 1
            elif not would_drop(buffer):
                buffer.put((_Batch(), {}))
                given += 1
            else:
                assert left, "it never refuses for ever"
        assert given * uses - taken == len(buffer), "each batch is used as often as it may be"
        for _ in range(batches + 1):
            if not would_drop(buffer):
                buffer.put((_Batch(), {}))
        size = len(buffer)
        buffer.put((_Batch(), {}))
        assert len(buffer) < size + uses, "it would have dropped one"


class _Batch:
    def env_steps(self) -> int:
        """Return what the buffer counts."""
        return 1


def test_who_saves_waits_until_the_weights_are_averaged() -> None:
    """The trainer finds the first learner with everybody's weights, though it asks between learning and averaging."""
    learners, batches = make(2)
    may_come, found = threading.Event(), []

    def update(learner: APPOLearner, index: int) -> None:
        if index:
            may_come.wait(60)
        learner._update(batches[index])

    def save() -> None:
        while not learners[0]._averages:
            time.sleep(0.001)
        threading.Timer(0.2, may_come.set).start()
        learners[0].rest()
        found.append(weights_of(learners[0])[SHARED])
        learners[0].go_on()

    saving = threading.Thread(target=save)
    saving.start()
    together(learners, update)
    saving.join(60)
    assert same(found[0], weights_of(learners[1])[SHARED])
    end(learners)


@pytest.mark.parametrize(
    ("algorithm", "named"),
    [
        ({"batch_env_steps": 80}, "multiple of learners x envs_per_runner x fragment_steps"),
        ({"least_uses_per_batch": 1.0, "uses_per_batch": 2}, "least_uses_per_batch"),
    ],
)
def test_a_batch_is_divided_and_used_by_all_alike(algorithm: dict[str, Any], named: str) -> None:
    content = {
        "algorithm": SMALL | {"least_uses_per_batch": 2.0, "uses_per_batch": 2} | algorithm,
        "training": {"runners": 2, "envs_per_runner": 4, "learners": 2},
    }
    with pytest.raises(ConfigError, match=named):
        load_policy_config(content)
    good = load_policy_config(content | {"algorithm": SMALL | {"least_uses_per_batch": 2.0, "uses_per_batch": 2}})
    config: Any = algorithm_config(load_environment(small_environment()), good, cpus=8)
    assert (config.num_learners, config.num_env_runners) == (2, 2)
    assert (config.train_batch_size_per_learner, config.minibatch_steps) == (80, 32)


def _used(learner: APPOLearner) -> tuple[int, int, dict[str, np.ndarray]]:
    """Return how many batches a learner has taken, how often it has used one, and its weights by name."""
    weights = {name: value.detach().numpy().copy() for name, value in learner.network(SHARED).named_parameters()}
    return learner._batches, learner._uses_of_all, weights


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_learners_in_processes_use_all_batches_alike_and_end_equal(tmp_path: Path) -> None:
    settings = {"uses_per_batch": 3, "least_uses_per_batch": 3.0, "report_env_steps": 480, "buffer_batches": 2}
    policy = load_policy_config(
        {
            "algorithm": SMALL | settings,
            "network": {"hidden": [8]},
            "training": {"runners": 1, "envs_per_runner": 4, "learners": 2, "seed": 3},
        }
    )
    algorithm: Any = algorithm_config(load_environment(small_environment()), policy, cpus=2).build_algo()
    try:
        first = algorithm.learner_group.get_weights()
        *_, result = (algorithm.train() for _ in range(4))
        algorithm.save_checkpoint(str(tmp_path))
        end_s = time.monotonic() + 60
        found: list[Any] = []
        while time.monotonic() < end_s:  # no batch comes while the trainer is not asked to train
            found = [one.get() for one in algorithm.learner_group.foreach_learner(_used)]
            if all(uses == 3 * batches for batches, uses, _ in found):
                break
            time.sleep(0.05)
        (batches, uses, one), (_, _, other) = found
        assert batches >= 4 * 480 // 160 - 1
        assert [counts for *counts, _ in found] == [[batches, 3 * batches]] * 2
        assert uses == 3 * batches
        assert same(one, other)
        assert not np.allclose(first[SHARED]["actor.scores.0.weight"], one["actor.scores.0.weight"])
        assert result["learners"][SHARED]["lag"] >= 0
    finally:
        algorithm.stop()
