"""Processes that exchange as learners and runners do, and sleep in place of work; for `scaling.py`.

Nothing here needs torch or RLlib at import: a process that stands for a runner loads neither.
"""

from __future__ import annotations

import functools
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

Array = npt.NDArray

# What `now` returns.
WALL, DELAY, CPU, THREAD = range(4)


Times = tuple[float, float, float, float]


def now() -> Times:
    """Return the time by the clock, how long this thread has waited for a core, and CPU times of process and thread, s.

    A thread waits while it could work and all cores do something else. Linux counts that.
    """
    delay_s = int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    return time.perf_counter(), delay_s, time.process_time(), time.thread_time()


class TimedMeeting:
    """A meeting that notes the times before and after each exchange, and at begin and end of an iteration."""

    def __init__(self, meeting: Any) -> None:
        """Wrap a meeting."""
        self.size, self.index, self._meeting = meeting.size, meeting.index, meeting
        self.marks: list[Times] = []
        self.sizes: list[int] = []
        """Of what was exchanged, in numbers: figures of all as negative ones."""
        self.has_ended = True

    def begin(self) -> None:
        """Begin an iteration."""
        self.marks, self.sizes, self.has_ended = [now()], [], False

    def end(self) -> None:
        """End it."""
        self.marks.append(now())
        self.has_ended = True

    def _timed(self, size: int, exchange: Any, given: Any) -> Any:
        self.sizes.append(size)
        self.marks.append(now())
        found = exchange(given)
        self.marks.append(now())
        return found

    def gather(self, figures: Array) -> Array:
        """See `Meeting.gather`."""
        return self._timed(-len(figures), self._meeting.gather, figures)

    def add(self, vector: Any) -> None:
        """See `Meeting.add`."""
        self._timed(vector.numel(), self._meeting.add, vector)


def time_learner(learner: Any, sampler: Any = None) -> None:
    """Let a learner note its times, from the beginning of sampling to the end of learning.

    Args:
        learner: has learned before.
        sampler: whose method `sample` gives it samples for `update`; None: its own runner, for `iterate`.
    """
    meeting = learner.meeting = TimedMeeting(learner.meeting)
    own = learner._own_runner  # noqa: SLF001 - it is watched, not used
    sampler, last, name = (sampler, learner, "update") if sampler else (own, own, "get_metrics")
    sample, end = sampler.sample, getattr(last, name)

    def timed_sample(*given: Any) -> Any:
        if meeting.has_ended:
            meeting.begin()
        return sample(*given)

    def timed_end(*given: Any, **how: Any) -> Any:
        found = end(*given, **how)
        meeting.end()
        return found

    sampler.sample = timed_sample
    setattr(last, name, timed_end)


class Answer:
    """What Ray carries in place of a real learner's answer: it becomes that when the trainer receives it."""

    def __init__(self, content: bytes, buffers: list[Array]) -> None:
        """Take the parts of a pickled answer."""
        self._content, self._buffers = content, buffers

    @classmethod
    def parts(cls, answer: Any) -> tuple[bytes, list[Array]]:
        """Return the parts of an answer, for a process that need not know its classes."""
        buffers: list[Any] = []
        content = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
        return content, [np.frombuffer(buffer.raw(), np.uint8).copy() for buffer in buffers]

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        """Pickle as what it stands for."""
        return functools.partial(pickle.loads, self._content, buffers=self._buffers), ()


@ray.remote(num_cpus=0)
class SleepingLearner:
    """Meets as a learner does, and sleeps in place of work."""

    def __init__(self, index: int, workers: int, folder: str, plan: dict[str, Any]) -> None:
        """Join the others.

        Args:
            index: of this one.
            workers: how many there are.
            folder: where they find each other.
            plan: `seconds` [iterations, meetings + 1] of work, `sizes` as a `TimedMeeting` notes them, `answer` in
                parts, `late_share` or None.
        """
        import torch  # noqa: PLC0415 - processes that only hold the class need none
        from torch import distributed  # noqa: PLC0415 - as above

        from offload_rllib.algorithms.exchange.meeting import ProcessMeeting  # noqa: PLC0415 - as above

        torch.set_num_threads(1)
        distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=index, world_size=workers)
        self._meeting, self._plan, self._answer = TimedMeeting(ProcessMeeting("cpu")), plan, Answer(*plan["answer"])
        self._vectors: list[Any] = [torch.zeros(size) if size > 0 else np.zeros(-size) for size in plan["sizes"]]
        self._iterations, self._learned_s, self._usual_s = 0, 0.0, 0.0
        self._slept: list[float] = []

    def ready(self) -> None:
        """Wait until all have come."""
        self._meeting.gather(np.zeros(1))

    def _limited(self, phase: int, seconds: float) -> float:
        """Return what a learner of `exchange: weights` may take; see `exchange.lesson.Met`."""
        late_share = self._plan["late_share"]
        if phase == 1 and late_share is not None and self._usual_s:
            return min(seconds, (1 + late_share) * self._usual_s)
        return seconds

    def iterate(self, **_: Any) -> Answer:
        """Do one iteration; see `MeetingLearner.iterate`."""
        wanted = self._plan["seconds"][self._iterations]
        self._iterations += 1
        self._slept = []
        self._meeting.begin()
        for phase, (seconds, vector) in enumerate(zip(wanted[:-1], self._vectors, strict=True)):
            self._sleep(self._limited(phase, seconds))
            if isinstance(vector, np.ndarray):
                vector[-1] = self._learned_s
                self._usual_s = float(np.median(self._meeting.gather(vector)[:, -1]))
            else:
                self._meeting.add(vector)
        self._learned_s = self._slept[1]
        self._sleep(wanted[-1])
        self._meeting.end()
        return self._answer

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self._slept.append(seconds)

    def noted(self) -> tuple[list[float], Any]:
        """Return what the last iteration slept before each meeting and after the last, and the marks."""
        return self._slept, self._meeting.marks


def time_runner(runner: Any) -> None:
    """Let a runner note what it takes to load weights and to sample, in seconds without waits for a core."""
    runner.noted = {"load": 0.0, "sample": 0.0, "delay": 0.0}

    def timed(name: str, work: Any) -> Any:
        def run(*given: Any, **how: Any) -> Any:
            began = now()
            found = work(*given, **how)
            ended = now()
            delay_s = ended[DELAY] - began[DELAY]
            runner.noted[name] += ended[WALL] - began[WALL] - delay_s
            runner.noted["delay"] += delay_s
            return found

        return run

    # Ray calls an actor's own methods by their class.
    runner.module.set_state = timed("load", runner.module.set_state)
    runner.sample, runner.get_metrics = timed("sample", runner.sample), timed("sample", runner.get_metrics)


def noted_of(runner: Any) -> dict[str, float]:
    """Return what a runner has noted since the last call."""
    noted, runner.noted = dict(runner.noted), dict.fromkeys(runner.noted, 0.0)
    return noted


@ray.remote(num_cpus=0)
class SleepingRunner:
    """Takes weights and gives samples as a runner does, and sleeps in place of work."""

    def __init__(self, plan: dict[str, Any]) -> None:
        """Take what to sleep and to give.

        Args:
            plan: `load` and `sample` [iterations] s; `samples` and `metrics` in the parts of an `Answer`.
        """
        self._plan, self._iterations, self._slept_s, self._cpu_s = plan, 0, 0.0, time.process_time()
        self._samples, self._metrics = (Answer(*plan[name]) for name in ("samples", "metrics"))

    def ping(self) -> str:
        """Answer."""
        return "pong"

    def apply(self, func: Any, *given: Any, **how: Any) -> Any:
        """Return what a function of a runner returns of this one."""
        return func(self, *given, **how)

    def set_state(self, **_: Any) -> None:
        """Take weights, which Ray has loaded into this process."""
        self._sleep("load")

    def sample(self) -> Answer:
        """Return the sample."""
        self._sleep("sample")
        self._iterations += 1
        return self._samples

    def _sleep(self, part: str) -> None:
        seconds = self._plan[part][self._iterations % len(self._plan[part])]
        time.sleep(seconds)
        self._slept_s += seconds

    def noted(self) -> tuple[float, float]:
        """Return what it has slept since the last call, and its CPU time, s."""
        noted = self._slept_s, time.process_time() - self._cpu_s
        self._slept_s, self._cpu_s = 0.0, time.process_time()
        return noted

    def get_metrics(self) -> Answer:
        """Return the metrics of it."""
        return self._metrics
