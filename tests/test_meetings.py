"""Meetings of several learners: what they send each other, what a trainer hears, and who is told if one is lost."""

from __future__ import annotations

import itertools
import math
import os
import queue
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray import cloudpickle
from ray.exceptions import RayActorError

from offload_rllib.algorithms.exchange import answers
from offload_rllib.algorithms.exchange.answers import LearnersHangError, answers_of
from offload_rllib.algorithms.exchange.meeting import LearnerLostError, ProcessMeeting, halves
from offload_rllib.algorithms.exchange.moments import Moments
from offload_rllib.algorithms.exchange.plan import Plan
from offload_rllib.config import ConfigError

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes cannot import the tests


def test_moments_of_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(3, 2, 50).astype(np.float32))
    chosen = torch.from_numpy(rng.random(50) < 0.8)
    edges = (0, 20, 20, 21, 50)
    parts = [Moments.of(values[a:b], chosen[a:b]) for a, b in itertools.pairwise(edges)]
    whole, found = Moments.of(values, chosen), Moments.of_all(parts)
    assert found.count == whole.count
    assert found.mean == pytest.approx(whole.mean, rel=1e-6)
    assert found.spread == pytest.approx(whole.spread, rel=1e-6)
    one = Moments.of_all([whole])
    assert (np.float32(one.mean), np.float32(one.spread)) == (np.float32(whole.mean), np.float32(whole.spread))
    assert Moments.of_all([Moments(0, 0.0, 0.0), Moments(1, 4.0, 0.0)]).standardised(values).equal(values)


def test_plans_share_every_row_and_agree_on_the_number_of_steps() -> None:
    rng = np.random.default_rng(4)
    for _ in range(300):
        sizes = rng.choice([0, 1, 3, 17, 200], rng.integers(1, 6))
        minibatch = None if rng.random() < 0.2 else int(rng.integers(1, 40))
        if not sizes.any():
            continue
        for exchanged in (True, False):
            plans = [Plan.of(sizes, i, minibatch, together=exchanged) for i in range(len(sizes))]
            for plan, size in zip(plans, sizes, strict=True):
                assert (plan.edges[0], plan.edges[-1]) == (0, size)
                assert (np.diff(plan.edges) >= 0).all()
            assert sum(plan.share for plan in plans) == pytest.approx(1)
            assert len({plan.longest for plan in plans}) == 1
            if exchanged:
                np.testing.assert_allclose(np.sum([plan.shares for plan in plans], 0), 1, rtol=1e-12)
                per_step = np.sum([np.diff(plan.edges) for plan in plans], 0)
                assert minibatch is None or len(per_step) == 1 or len(per_step) <= sizes.sum() // minibatch


class Fails:
    """A learner that fails in its own way once it is asked."""

    def __init__(self, how: str) -> None:
        self.how = how

    def iterate(self, number: int) -> int:
        """Answer, fail, end, hang, or miss another learner."""
        if self.how == "hangs":
            time.sleep(600)
        if self.how == "misses":
            time.sleep(0.2)
            raise LearnerLostError("another learner is gone")
        if self.how == "fails":
            time.sleep(0.6)
            raise ConfigError("what it was given is wrong")
        if self.how == "ends":
            os._exit(1)
        return number


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("deeds", "error"),
    [
        (("answers", "answers"), None),
        (("misses", "fails", "answers"), ConfigError),
        (("ends", "misses"), RayActorError),
        (("hangs", "answers"), LearnersHangError),
    ],
)
def test_a_learner_that_fails_ends_all_and_the_cause_is_raised(
    deeds: tuple[str, ...], error: type[Exception] | None
) -> None:
    remote: Any = ray.remote(num_cpus=0)(Fails)  # pyright does not know that it is a class
    learners = [remote.remote(deed) for deed in deeds]
    if error is None:
        assert answers_of(learners, "iterate", number=7) == [7, 7]
        return
    with pytest.raises(error):
        answers_of(learners, "iterate", limit_s=2.0 if "hangs" in deeds else math.inf, number=7)
    for learner in learners:
        with pytest.raises(RayActorError):
            _ask_until_it_has_ended(learner)


@pytest.mark.usefixtures("ray_session")
def test_a_trainer_looks_a_few_times_for_all_answers_and_reads_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answering = SimpleNamespace(iterate=SimpleNamespace(remote=lambda *, number: ray.put(number)))
    learners = [answering] * 6
    looks, read = [], []
    wait, get = ray.wait, ray.get
    monkeypatch.setattr(answers.ray, "wait", lambda *given, **how: (looks.append(0), wait(*given, **how))[1])
    monkeypatch.setattr(answers.ray, "get", lambda given: (read.extend(given), get(given))[1])
    assert answers_of(learners, "iterate", number=2) == [2] * 6
    assert len(looks) <= 4
    assert len(read) == len(set(read)) == 6


def _ask_until_it_has_ended(learner: Any) -> None:
    """Ask a learner for a minute at most: `ray.kill` returns before the process has ended."""
    for _ in range(600):
        ray.get(learner.iterate.remote(number=7), timeout=60)
        time.sleep(0.1)


MEET = """
import sys, numpy, torch
from torch import distributed
from offload_rllib.algorithms.exchange.meeting import LearnerLostError, ProcessMeeting
index, size = int(sys.argv[2]), int(sys.argv[3])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=index, world_size=size)
meeting = ProcessMeeting("cpu")
print(meeting.gather(numpy.array([meeting.index, 5.0])).tolist())
for length in (1, 11):
    vector = 0.1 * (index + 1) * torch.arange(1.0, length + 1)
    meeting.add(vector)
    print(vector.numpy().tobytes().hex())
if index == size - 1:
    sys.stdout.flush()
    import os
    os._exit(0)
try:
    for _ in range(2):
        meeting.add(vector)
except LearnerLostError as error:
    print(error)
"""


@pytest.mark.parametrize("size", [2, 3])
def test_processes_meet_and_one_that_is_left_alone_is_told(size: int, tmp_path: Any) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MEET, str(tmp_path / "group"), str(rank), str(size)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    *others, last = (process.communicate(timeout=200)[0].splitlines() for process in started)
    assert last[0] == str([[float(index), 5.0] for index in range(size)])
    for line, length in zip(last[1:], (1, 11), strict=True):
        found = np.frombuffer(bytes.fromhex(line), np.float32)
        wanted = 0.1 * sum(range(1, size + 1)) * np.arange(1, length + 1)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for other in others:
        assert other[:3] == last, "all have the same bits"
        assert other[3].startswith("another learner is gone: ")


class Passing:
    """A group of N whose messages wait in lists: what one gives is there when the other takes it."""

    def __init__(self, size: int) -> None:
        self._queues: dict[tuple[int, int], queue.Queue[torch.Tensor]] = {
            pair: queue.Queue() for pair in itertools.product(range(size), repeat=2)
        }

    def meeting(self, index: int, size: int) -> Any:
        """Return the meeting of one of them."""
        meeting: Any = object.__new__(ProcessMeeting)
        meeting.size, meeting.index, meeting._device, meeting._by_halves = size, index, "cpu", True
        meeting._rounds, meeting.messages = halves(size), 0

        def swap(given: torch.Tensor, to: int, taken: torch.Tensor, source: int) -> None:
            meeting.messages += 1
            self._queues[index, to % size].put(given.clone())
            taken.copy_(self._queues[source % size, index].get(timeout=60))

        meeting._swap = swap
        return meeting


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 13, 64])
def test_any_number_of_processes_add_in_few_messages_and_to_the_same_bits(size: int) -> None:
    group, rng = Passing(size), np.random.default_rng(size)
    given = rng.normal(size=(size, 50)).astype(np.float32)

    def meet(index: int) -> tuple[bytes, np.ndarray, int]:
        meeting = group.meeting(index, size)
        vector = torch.from_numpy(given[index].copy())
        meeting.add(vector)
        return vector.numpy().tobytes(), meeting.gather(np.array([index, 2.0])), meeting.messages

    with ThreadPoolExecutor(size) as threads:
        found = list(threads.map(meet, range(size)))
    sums, figures, messages = zip(*found, strict=True)
    assert len(set(sums)) == 1
    np.testing.assert_allclose(np.frombuffer(sums[0], np.float32), given.sum(0, dtype=np.float64), rtol=1e-4, atol=1e-5)
    for each in figures:
        assert each[:, 0].tolist() == list(range(size))
        assert (each[:, 1] == 2.0).all()
    assert set(messages) == {3 * math.ceil(math.log2(size))}
