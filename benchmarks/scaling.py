"""Scaling without a cluster: light processes exchange weights, gradients and samples, and sleep in place of work.

Usage: python benchmarks/scaling.py [--workers 1 2 4 16 64] [--runners] [--exchange weights] [--late-share 0.2]
                                    [--exchange-batches 4] [--batch 1]

First, real trainings with one and two workers run, one iteration each in turn, and every worker notes its times. Then,
for each number of workers, so many processes stand for learners or runners of a real trainer. It calls them through
Ray, and they give it what real ones gave. In place of the work each sleeps what the one worker has noted in an
iteration drawn at random.

Learners also meet, over torch's process group, with vectors as large as the real ones. Work per learner stays the same,
so the batch grows with them: --batch times the preset's for each. With --exchange-batches they meet, and the trainer
calls them, once in so many batches, and an iteration is all of these. Efficiency is slept time over elapsed time. With
--runners the workers are runners: the batch stays the same and is divided among them. The trainer, which learns from
their samples, does not sleep.

All processes share the cores of this machine, and other work may as well. So two figures are given. *Here* is by the
clock. *A core each* is a sum: the slowest worker's sleep before each meeting, the trainer's part, the CPU time of one
worker, and HOP_S for each message that one worker sends. Times of real work leave out what a process waited for a core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import sleeping
import torch
from ray import cloudpickle
from ray.rllib.utils.actor_manager import FaultTolerantActorManager
from runners import table
from sleeping import (
    CPU,
    DELAY,
    THREAD,
    WALL,
    Answer,
    SleepingLearner,
    SleepingRunner,
    noted_of,
    now,
    time_learner,
    time_runner,
)

from offload_rllib.algorithms import sampling
from offload_rllib.algorithms.exchange.meeting import GRADIENTS, WEIGHTS, halves
from offload_rllib.algorithms.exchange.threads import Room, ThreadMeeting
from offload_rllib.cluster.connection import connect
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.simulator.types import Array
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import quieten

# Latency of a message in a cluster's network, s.
HOP_S = 50e-6
WARM_UP = 3


@dataclass(frozen=True)
class Iteration:
    """What an iteration of W workers with M meetings took, s."""

    trainer: Array
    """[4] of `now`; delays and CPU time outside the workers."""
    marks: Array
    """[W, 2 M + 2, 4] of `now`: begin, before and after each meeting, end."""
    slept: Array
    """[W, M + 1] before each meeting and after the last; empty for real work."""

    @property
    def wall_s(self) -> float:
        """By the clock."""
        return float(self.trainer[WALL])

    @property
    def work_s(self) -> Array:
        """[W, M + 1] before each meeting and after the last, without waits for a core."""
        return _without_delay(self.marks)[:, 0::2]

    @property
    def work_cpu_s(self) -> Array:
        """[W, M + 1] the same in CPU time."""
        return np.diff(self.marks[:, :, CPU])[:, 0::2]

    @property
    def outside_s(self) -> float:
        """The trainer's part: while no worker works or meets, without waits for a core; at least its CPU time."""
        inside = self.marks[:, -1, WALL].max() - self.marks[:, 0, WALL].min()
        return float(max(self.trainer[WALL] - inside - self.trainer[DELAY], self.trainer[THREAD]))

    @property
    def free_s(self) -> float:
        """What it would have taken if nothing had waited for a core: a worker that comes last waits for no other."""
        met = _without_delay(self.marks)[:, 1::2]
        return self.outside_s + float(self.work_s.max(0).sum() + met.min(0).sum())

    @property
    def exchange_cpu_s(self) -> float:
        """CPU time of one worker, all meetings together."""
        return float(np.diff(self.marks[:, :, CPU])[:, 1::2].sum(1).mean())

    def core_each_s(self, hops: int) -> float:
        """Return what it would take with a core for each sleeping worker and a network between them."""
        return self.outside_s + float(self.slept.max(0).sum()) + self.exchange_cpu_s + hops * HOP_S


def _without_delay(marks: Array) -> Array:
    return np.diff(marks[:, :, WALL] - marks[:, :, DELAY])


class LearnerTraining:
    """A training whose learners note their times: one in the trainer's process, or several."""

    def __init__(self, options: argparse.Namespace, learners: int, *, divided: bool = False) -> None:
        """Build it, and do what is only done at first.

        Args:
            options: of the command.
            learners: two or more; 0: one process.
            divided: whether they divide a batch of one process.
        """
        preset: Any = load_policy_config(options.policy)
        workers = max(learners, 1)
        times = 1 if divided else workers
        envs = max(preset.training.runners, 1) * preset.training.envs_per_runner * times * options.batch // workers
        batch = preset.algorithm.batch_env_steps * times * options.batch
        self.env_steps = batch * (options.exchange_batches if learners else 1)
        """Of an iteration."""
        changes = [
            f"algorithm.batch_env_steps={batch}",
            f"algorithm.minibatch_steps={preset.algorithm.minibatch_steps * times}",
            f"algorithm.exchange={options.exchange}",
            f"algorithm.exchange_batches={options.exchange_batches}",
            f"training={{runners: 0, learners: {learners}, cpus_per_runner: 0.1, envs_per_runner: {envs}}}",
            f"training.env_steps={10**9}",
        ]
        self.learners = learners
        policy = load_policy_config(options.policy, changes)
        self.algorithm: Any = algorithm_config(load_environment(options.env), policy, cpus=2).build_algo()
        self.algorithm.train()
        if learners:
            for answer in self.algorithm.learner_group.foreach_learner(time_learner):
                answer.get()
        else:
            self._learner: Any = self.algorithm.learner_group._learner  # noqa: SLF001 - it is watched, not used
            self._learner.meeting = ThreadMeeting(Room(1), 0)
            time_learner(self._learner, self.algorithm)
        for _ in range(WARM_UP):
            self.iterate()

    def _noted(self) -> list[tuple[list[float], Any]]:
        if not self.learners:
            return [([], self._learner.meeting.marks)]
        answers = self.algorithm.learner_group.foreach_learner(lambda learner: learner.meeting.marks)
        return [([], answer.get()) for answer in answers]

    def iterate(self, asleep: list[Any] | None = None) -> Iteration:
        """Do one iteration, with workers that sleep or its own."""
        began = np.array(now())
        self.algorithm.train()
        took = np.array(now()) - began
        noted = self._noted() if asleep is None else ray.get([worker.noted.remote() for worker in asleep])
        marks = np.array([marks for _, marks in noted])
        if not self.learners:
            took[[DELAY, THREAD]] -= (marks[0, -1] - marks[0, 0])[[DELAY, THREAD]]  # the same thread
        return Iteration(took, marks, np.array([slept for slept, _ in noted]))

    def sizes(self) -> list[int]:
        """Return what the worker of one process exchanges, as a `TimedMeeting` notes it."""
        return self._learner.meeting.sizes

    def sleep(self, workers: int, pool: Array, sizes: list[int], options: argparse.Namespace) -> list[Iteration]:
        """Return iterations of this trainer with so many workers that sleep.

        Args:
            workers: how many.
            pool: [n, meetings + 1] s, from which each draws.
            sizes: of what they exchange.
            options: of the command.
        """
        group, rng = self.algorithm.learner_group, np.random.default_rng(workers)
        own = group._workers  # noqa: SLF001 - others take their place for a while
        answers = ray.get([learner.iterate.remote(env_steps=self.algorithm.env_steps, num_epochs=1) for learner in own])
        parts = [Answer.parts(answer) for answer in answers]
        make: Any = SleepingLearner.remote  # pyright: ignore[reportFunctionMemberAccess] - Ray's, of an actor
        iterations = options.iterations + WARM_UP
        with tempfile.TemporaryDirectory() as folder:
            asleep: list[Any] = []
            for index in range(workers):
                seconds = pool[rng.integers(0, len(pool), (iterations, options.exchange_batches))].sum(1)
                if options.exchange_batches > 1:  # all before they meet
                    seconds[:, 0], seconds[:, 1:] = seconds.sum(1), 0
                plan = {"seconds": seconds.tolist(), "sizes": sizes, "late_share": options.late_share}
                plan["answer"] = parts[min(index, 1)]
                asleep.append(make(index, workers, folder, plan))
            try:
                ray.get([worker.ready.remote() for worker in asleep])
                group._workers = asleep  # noqa: SLF001 - as above
                return [self.iterate(asleep) for _ in range(iterations)][WARM_UP:]
            finally:
                group._workers = own  # noqa: SLF001 - as above
                for worker in asleep:
                    ray.kill(worker)


@dataclass(frozen=True)
class Round:
    """What an iteration with W runners took, s."""

    wall_s: float
    free_s: float
    """Without waits for a core; of the runners', the longest."""
    trainer_s: float
    """CPU time of the trainer."""
    learning_s: float
    """Of that, learning."""
    busy_s: Array
    """[W] in which runners sampled and loaded weights, or slept."""
    cpu_s: Array
    """[W] CPU time of runners that sleep."""


class RunnerTraining:
    """A training whose runners note their times."""

    def __init__(self, options: argparse.Namespace, runners: int) -> None:
        """Build it, and do what is only done at first."""
        changes = [f"training.runners={runners}", "training.learners=0", "training.cpus_per_runner=0.1"]
        policy = load_policy_config(options.policy, changes)
        self.algorithm: Any = algorithm_config(load_environment(options.env), policy, cpus=2).build_algo()
        self.env_steps = int(self.algorithm.config.total_train_batch_size)
        learn, self._learning_s = self.algorithm.learn, 0.0

        def timed(*given: Any, **how: Any) -> None:
            began = now()
            learn(*given, **how)
            self._learning_s = now()[THREAD] - began[THREAD]

        self.algorithm.learn = timed
        self.last: dict[str, float] = {}
        self.algorithm.train()
        self._runners(time_runner)
        for _ in range(WARM_UP):
            self.iterate()

    def _runners(self, work: Any) -> list[Any]:
        return self.algorithm.env_runner_group.foreach_env_runner(work, local_env_runner=False)

    def iterate(self, asleep: list[Any] | None = None) -> Round:
        """Do one iteration, with runners that sleep or its own."""
        began = np.array(now())
        self.algorithm.train()
        took = np.array(now()) - began
        if asleep is None:
            each_noted = self._runners(noted_of)
            self.last = each_noted[0]
            noted = np.array([(each["load"] + each["sample"], each["delay"]) for each in each_noted])
            delay_s, cpu_s = noted[:, 1].max(), np.zeros(len(noted))
        else:
            noted = np.array(ray.get([runner.noted.remote() for runner in asleep]))
            delay_s, cpu_s = 0.0, noted[:, 1]
        free_s = float(took[WALL] - took[DELAY] - delay_s)
        return Round(float(took[WALL]), free_s, float(took[THREAD]), self._learning_s, noted[:, 0], cpu_s)

    def sleep(self, runners: int, pool: list[dict[str, float]], options: argparse.Namespace) -> list[Round]:
        """Return iterations of this trainer with so many runners that sleep; arguments as `LearnerTraining.sleep`."""
        config = self.algorithm.config.copy(copy_frozen=False)
        config.env_runners(num_env_runners=runners)
        runner = config.env_runner_cls(config=config, worker_index=1, num_workers=runners)
        samples, metrics = [(runner.sample(), runner.get_metrics()) for _ in range(WARM_UP)][-1]
        given = {"samples": samples, "metrics": metrics}
        group, rng, iterations = self.algorithm.env_runner_group, np.random.default_rng(runners), options.iterations
        make: Any = SleepingRunner.remote  # pyright: ignore[reportFunctionMemberAccess] - Ray's, of an actor
        asleep = []
        for _ in range(runners):
            drawn = [pool[place] for place in rng.integers(0, len(pool), iterations + WARM_UP + 1)]
            plan: dict[str, Any] = {name: Answer.parts(answer) for name, answer in given.items()}
            plan |= {"load": [one["load"] for one in drawn], "sample": [one["sample"] / runners for one in drawn]}
            asleep.append(make(plan))
        own = group._worker_manager  # noqa: SLF001 - others take their place for a while
        try:
            ray.get([runner.ping.remote() for runner in asleep])
            group._worker_manager = FaultTolerantActorManager(asleep, init_id=1)  # noqa: SLF001 - as above
            return [self.iterate(asleep) for _ in range(iterations + WARM_UP)][WARM_UP:]
        finally:
            group._worker_manager = own  # noqa: SLF001 - as above
            for each in asleep:
                ray.kill(each)


def ms(seconds: float) -> str:
    """Return seconds as milliseconds."""
    return f"{1e3 * seconds:.1f}"


def recorded(found: dict[str, list[Iteration]]) -> str:
    """Return the table of what workers noted."""
    rows = []
    for name, iterations in found.items():
        cells = []
        for values in ([i.work_s for i in iterations], [i.work_cpu_s for i in iterations]):
            phases = np.concatenate(values)
            parts = (phases[:, 0], phases[:, 1:].sum(1))
            cells += [f"{ms(float(np.median(part)))} | {part.std() / part.mean():.0%}" for part in parts]
        rows.append(f"| {name} | {' | '.join(cells)} | {ms(statistics.median(i.outside_s for i in iterations))} |")
    parts = ("before the first meeting", "behind it")
    heads = (f"{part}, {clock}ms | spread" for clock in ("", "CPU ") for part in parts)
    return table(f"workers | {' | '.join(heads)} | trainer, ms", rows)


def compared(
    found: dict[str, list[Iteration]], env_steps: dict[str, int], slept: dict[int, list[Iteration]], batches: int
) -> str:
    """Return the table of measured and predicted iterations; with more batches than 1 one process is not predicted."""
    rows, one = [], next(iter(found.values()))
    for (name, iterations), workers in zip(found.items(), (1 if batches == 1 else None, 2, None), strict=True):
        wall, free = (statistics.median(getattr(i, key) for i in iterations) for key in ("wall_s", "free_s"))
        more = env_steps[name] / next(iter(env_steps.values()))
        ratio = more * statistics.median(a.free_s / b.free_s for a, b in zip(one, iterations, strict=True))
        predicted = "|"
        if workers in slept:
            by_sleep = statistics.median(i.free_s for i in slept[workers])
            predicted = f"{ms(by_sleep)} | {by_sleep / free - 1:+.0%}"
        rows.append(f"| {name} | {ms(wall)} | {ms(free)} | {predicted} | {env_steps[name] / free:,.0f} | {ratio:.2f} |")
    head = "workers | by the clock, ms | without waits for a core, ms | predicted, ms | error | choices/s | times one"
    return table(head, rows)


def scaled(slept: dict[int, list[Iteration]], meetings: list[int]) -> str:
    """Return the table of workers that sleep."""
    rows = []
    for workers, iterations in slept.items():
        # One message after the other, as `ProcessMeeting` sends them.
        hops = len(halves(workers)) * sum(1 if size < 0 else 2 for size in meetings)
        work = np.mean([i.slept.sum(1).mean() for i in iterations])
        longest = np.mean([i.slept.max(0).sum() for i in iterations])
        here = np.mean([i.wall_s for i in iterations])
        alone = np.mean([i.core_each_s(hops) for i in iterations])
        outside, exchange = (np.mean([getattr(i, key) for i in iterations]) for key in ("outside_s", "exchange_cpu_s"))
        cells = [work, longest - work, outside, exchange, hops * HOP_S]
        shown = " | ".join(ms(float(cell)) for cell in cells)
        both = " | ".join(f"{ms(float(whole))} | {work / whole:.0%}" for whole in (here, alone))
        rows.append(f"| {workers} | {shown} | {both} |")
    parts = "slept | waiting for the slowest | trainer | exchange, CPU of one | network"
    return table(f"workers | {parts} | here, ms | efficiency | a core each, ms | efficiency", rows)


def learners_scale(options: argparse.Namespace) -> None:
    """Measure learners, let others sleep, and print."""
    shapes = {"1": (0, False), "2": (2, False), "2, batch divided": (2, True)}
    with ExitStack() as stack:
        trainings: dict[str, LearnerTraining] = {}
        for name, (learners, divided) in shapes.items():
            trainings[name] = LearnerTraining(options, learners, divided=divided)
            stack.callback(trainings[name].algorithm.stop)
        rounds = [[training.iterate() for training in trainings.values()] for _ in range(options.iterations)]
        found = {name: list(own) for name, own in zip(trainings, zip(*rounds, strict=True), strict=True)}
        one = trainings["1"]
        print(f"{one.env_steps:,} choices in a batch of each learner, exchange: {options.exchange}", end=", ")
        print(f"an iteration of several: {options.exchange_batches} batches\n")
        print(f"{recorded(found)}\n", flush=True)
        pool, sizes = np.concatenate([i.work_s for i in found["1"]]), one.sizes()
        slept = {}
        for workers in options.workers:
            slept[workers] = trainings["2"].sleep(workers, pool, sizes, options)
        sizes_of = {name: own.env_steps for name, own in trainings.items()}
        print(f"{compared(found, sizes_of, slept, options.exchange_batches)}\n")
        print(f"load {os.getloadavg()[0]:.1f}; exchanged: {sizes} numbers\n\n{scaled(slept, sizes)}")


def runners_scale(options: argparse.Namespace) -> None:
    """Measure runners, let others sleep, and print."""
    with ExitStack() as stack:
        trainings = {runners: RunnerTraining(options, runners) for runners in (1, 2)}
        for training in trainings.values():
            stack.callback(training.algorithm.stop)
        pool: list[dict[str, float]] = []
        found: dict[int, list[Round]] = {1: [], 2: []}
        for _ in range(options.iterations):
            for runners, training in trainings.items():
                found[runners].append(training.iterate())
            pool.append(trainings[1].last)
        steps = trainings[1].env_steps
        print(f"{steps:,} choices of all runners together", flush=True)
        slept = {runners: trainings[2].sleep(runners, pool, options) for runners in options.workers}

    def middle(rounds: list[Round], what: Callable[[Round], float]) -> float:
        return statistics.median(what(each) for each in rounds)

    def alone_s(each: Round) -> float:
        return float(each.trainer_s + each.busy_s.max() + each.cpu_s.mean())

    first, rows = slept[min(slept)], []
    for runners, rounds in slept.items():
        free = middle(rounds, lambda each: each.free_s)
        cells = [middle(rounds, lambda each: float(each.busy_s.max())), middle(rounds, lambda each: each.learning_s)]
        trainer, here = (middle(rounds, lambda each, key=key: getattr(each, key)) for key in ("trainer_s", "wall_s"))
        cells += [trainer - cells[1], here, free]
        measured = middle(found[runners], lambda each: each.free_s) if runners in found else None
        shown = " | ".join(map(ms, cells))
        check = f"{ms(measured)} | {free / measured - 1:+.0%}" if measured else "|"
        alone = middle(rounds, alone_s)
        times = middle(first, alone_s) / alone
        rows.append(f"| {runners} | {shown} | {check} | {ms(alone)} | {steps / alone:,.0f} | {times:.2f} |")
    parts = "slept, ms | learning, CPU | asking and reading, CPU | here | without waits for a core | measured | error"
    print(f"load {os.getloadavg()[0]:.1f}\n")
    print(table(f"runners | {parts} | a core each, ms | choices/s | times {min(slept)}", rows))


def main() -> None:
    """Measure, predict and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 16, 64])
    parser.add_argument("--runners", action="store_true", help="workers are runners of one learner")
    parser.add_argument("--exchange", choices=[WEIGHTS, GRADIENTS], default=WEIGHTS, help="of learners")
    parser.add_argument("--late-share", type=float, help="cut learning short as `algorithm.late_share` does")
    parser.add_argument("--exchange-batches", type=int, default=1, help="of learners, between two meetings")
    parser.add_argument("--batch", type=int, default=1, help="of each learner, in batches of the preset")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--env", default="ether_12")
    parser.add_argument("--policy", default="ppo")
    options = parser.parse_args()
    if options.late_share is not None and options.exchange_batches > 1:
        parser.error("--late-share: learners that sleep are cut short only with --exchange-batches 1")
    # Ray gives its processes a low priority, and the trainer here would not wait as they do.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # What these processes are given must not need this folder, nor RLlib.
    for module in (sleeping, sampling):
        cloudpickle.register_pickle_by_value(module)
    quieten()
    torch.set_num_threads(1)
    with connect():
        print(f"{options.env}, {options.policy}; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before")
        print(f"{options.iterations} iterations of each, medians", end="; ")
        (runners_scale if options.runners else learners_scale)(options)


if __name__ == "__main__":
    main()
