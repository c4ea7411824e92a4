"""Efficiency of several learners: measured with 1 and 2, and for more by processes that only exchange and sleep.

Usage: python benchmarks/several_learners.py [--workers 1 2 4 8 16 32 64] [--exchange weights] [--iterations 20]

First, trainings with 0 learners (one process that samples and learns) and with 2 run in turn, one iteration each. Every
learner notes how long it worked before each meeting, by the clock and in CPU time. Then, for each number of workers,
so many processes do the same exchange, over torch's process group, and sleep in place of the work: each sleeps what a
learner drawn at random has noted in an iteration drawn at random. The trainer's part, which the measurement has too, is
slept by all. Efficiency is slept time over elapsed time: work per learner stays the same, and the batch grows.

Times by the clock hold what else the machine did. CPU times stand for learners with a core each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import distributed

from offload_rllib.algorithms.exchange.meeting import GRADIENTS, ProcessMeeting
from offload_rllib.cluster.connection import connect
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import quieten

WALL, CPU = 0, 1


def clocks() -> tuple[float, float]:
    """Return the time by the clock and the CPU time of this process, s."""
    return time.perf_counter(), time.process_time()


@dataclass
class Phases:
    """What one learner did in an iteration."""

    work: list[tuple[float, float]] = field(default_factory=list)
    """Before each meeting: seconds by the clock, and of CPU."""
    sizes: list[int] = field(default_factory=list)
    """Of what was exchanged at each meeting, in bytes; a list of figures counts as negative."""
    ended: float = 0.0
    """By the clock, after the last meeting."""
    began: float = 0.0


class TimedMeeting:
    """A meeting that notes what was done before."""

    def __init__(self, meeting: Any) -> None:
        """Wrap a meeting."""
        self.size, self.index, self._meeting = meeting.size, meeting.index, meeting
        self.begin()

    def begin(self) -> None:
        """Begin an iteration."""
        self.phases = Phases()
        self._left = clocks()
        self.phases.began = self._left[WALL]

    def _timed(self, size: int, work: Any, given: Any) -> Any:
        now = clocks()
        self.phases.work.append((now[WALL] - self._left[WALL], now[CPU] - self._left[CPU]))
        self.phases.sizes.append(size)
        done = work(given)
        self._left = clocks()
        self.phases.ended = self._left[WALL]
        return done

    def gather(self, figures: np.ndarray) -> np.ndarray:
        """See `Meeting.gather`."""
        return self._timed(-8 * len(figures), self._meeting.gather, figures)

    def add(self, vector: torch.Tensor) -> None:
        """See `Meeting.add`."""
        self._timed(vector.element_size() * vector.numel(), self._meeting.add, vector)


def time_meetings(learner: Any) -> None:
    """Let a learner that has sampled once note its phases."""
    learner.meeting = TimedMeeting(learner.meeting)
    sample = learner._own_runner.sample  # noqa: SLF001 - it is watched, not used

    def timed(*given: Any) -> Any:
        learner.meeting.begin()
        return sample(*given)

    learner._own_runner.sample = timed  # noqa: SLF001 - as above


@dataclass
class Measured:
    """What trainings have shown."""

    one: list[float] = field(default_factory=list)
    """Seconds of an iteration of one process."""
    two: list[float] = field(default_factory=list)
    """Of two learners."""
    phases: list[list[Phases]] = field(default_factory=list)
    """[iterations][2]."""
    steps: int = 0
    """Choices per iteration."""

    @property
    def trainer_s(self) -> float:
        """Median of what an iteration takes outside the learners."""
        inside = [max(one.ended for one in both) - min(one.began for one in both) for both in self.phases]
        return statistics.median(wall - work for wall, work in zip(self.two, inside, strict=True))


def measure(options: argparse.Namespace) -> Measured:
    """Run trainings of one process and of two learners in turn."""
    environment, found = load_environment(options.env), Measured()
    with connect(), ExitStack() as stack:
        trainings: list[Any] = []
        for learners in (0, 2):
            changes = [f"training.learners={learners}", "training.runners=0", "training.cpus_per_runner=0.5"]
            changes += [f"algorithm.exchange={options.exchange}", f"training.envs_per_runner={16 // max(learners, 1)}"]
            config = algorithm_config(environment, load_policy_config(options.policy, changes), cpus=2)
            trainings.append(config.build_algo())
            stack.callback(trainings[-1].stop)
        for training in trainings:
            training.train()
        found.steps = int(trainings[0].config.total_train_batch_size)
        for answer in trainings[1].learner_group.foreach_learner(time_meetings):
            answer.get()
        for _ in range(options.iterations):
            for training, times in zip(trainings, (found.one, found.two), strict=True):
                began = time.perf_counter()
                training.train()
                times.append(time.perf_counter() - began)
            answers = trainings[1].learner_group.foreach_learner(lambda learner: learner.meeting.phases)
            found.phases.append([answer.get() for answer in answers])
    return found


def worker(index: int, workers: int, folder: str, plan: list[list[float]], sizes: list[int], slept_by: Any) -> None:
    """Sleep and exchange; put the slept and the elapsed seconds into a queue."""
    torch.set_num_threads(1)
    where = f"file://{folder}/group"
    distributed.init_process_group("gloo", init_method=where, rank=index, world_size=workers)
    meeting = ProcessMeeting("cpu")
    vectors = [torch.zeros(size // 4) if size > 0 else np.zeros(-size // 8) for size in sizes]
    meeting.gather(np.zeros(1))
    began, slept = time.perf_counter(), 0.0
    for times in plan:
        for seconds, vector in zip(times, vectors, strict=False):
            time.sleep(seconds)
            slept += seconds
            if isinstance(vector, torch.Tensor):
                meeting.add(vector)
            else:
                meeting.gather(vector)
        time.sleep(times[-1])
        slept += times[-1]
    slept_by.put((slept, time.perf_counter() - began))
    distributed.destroy_process_group()


def exchange_and_sleep(workers: int, measured: Measured, kind: int, iterations: int) -> tuple[float, float]:
    """Return the mean share of the time in which workers sleep, and the seconds of an iteration."""
    rng = np.random.default_rng(workers)
    pool = [one for both in measured.phases for one in both]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    trainer_s = measured.trainer_s if kind == WALL else 0.0
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for index in range(workers):
            drawn = rng.integers(0, len(pool), iterations)
            plan = [[seconds[kind] for seconds in pool[i].work] + [trainer_s] for i in drawn]
            given = (index, workers, folder, plan, pool[0].sizes, queue)
            started.append(context.Process(target=worker, args=given))
            started[-1].start()
        found = [queue.get(timeout=600) for _ in started]
        for process in started:
            process.join()
    slept, elapsed = (sum(values) for values in zip(*found, strict=True))
    return slept / elapsed, elapsed / workers / iterations


def main() -> None:
    """Measure, predict and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--exchange", choices=["weights", GRADIENTS], default="weights")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--env", default="ether_12")
    parser.add_argument("--policy", default="ppo")
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    measured = measure(options)
    print(
        f"{options.env}, {options.policy}, exchange of {options.exchange}: {measured.steps:,} choices per iteration, "
    )
    print(f"{os.cpu_count()} CPUs, load {load:.1f} before and {os.getloadavg()[0]:.1f} after, ", end="")
    print(f"{options.iterations} iterations in turn\n")
    one, two = statistics.median(measured.one), statistics.median(measured.two)
    ratio = statistics.median(a / b for a, b in zip(measured.one, measured.two, strict=True))
    print(f"one process {measured.steps / one:,.0f} choices/s, two learners {measured.steps / two:,.0f}: ", end="")
    print(f"{ratio:.2f} times (median of ratios in turn)")
    work = np.array(
        [[one.work for one in both] for both in measured.phases]
    )  # [iterations, learners, meetings, clocks]
    first, rest = work[:, :, 0], work[:, :, 1:].sum(2)
    for name, part in (("sampling and advantages", first), ("learning", rest)):
        spread = part.std((0, 1)) / part.mean((0, 1))
        print(
            f"{name}: {1e3 * part[..., WALL].mean():.1f} ms by the clock (spread {spread[WALL]:.0%}), "
            f"{1e3 * part[..., CPU].mean():.1f} ms of CPU (spread {spread[CPU]:.0%})"
        )
    print(
        f"trainer: {1e3 * measured.trainer_s:.1f} ms per iteration; "
        f"mean iteration of two learners {1e3 * np.mean(measured.two):.1f} ms\n"
    )
    print("| workers | iteration by the clock, ms | slept / elapsed | iteration of CPU times, ms | slept / elapsed |")
    print("|---:|---:|---:|---:|---:|")
    for workers in options.workers:
        cells = [exchange_and_sleep(workers, measured, kind, options.iterations) for kind in (WALL, CPU)]
        shown = " | ".join(f"{1e3 * seconds:.1f} | {share:.0%}" for share, seconds in cells)
        print(f"| {workers} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
