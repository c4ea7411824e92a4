"""A server of a testbed is busy by a timer, by real work, or by a program; what is given up ends nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

from offload_rllib.testbed.clock import ScenarioClock
from offload_rllib.testbed.compute import Burnt, Commanded, Compute, Emulated, calibrate
from offload_rllib.testbed.wire import Task

SPEED = 10.0
SERVICE_S = 3.0


def _played(kind: str) -> tuple[list[tuple[int, float]], int]:
    """Return which tasks ended and when, of one that is served and one that is given up, and the failures."""
    ended: list[tuple[int, float]] = []

    async def play() -> int:
        clock = ScenarioClock(time.monotonic(), SPEED)

        def done(task: Task, end_s: float) -> None:
            ended.append((task.number, end_s))

        compute: Compute
        if kind == "emulate":
            compute = Emulated(clock, done)
        elif kind == "burn":
            compute = Burnt(clock, done, 2, calibrate())
        else:
            program = 'test "$OFFLOAD_TASK" = 0 && test "$OFFLOAD_WORK" = 5.0 && sleep "$OFFLOAD_SECONDS"'
            compute = Commanded(clock, done, ("sh", "-c", program if kind == "command" else "exit 3"))
        tasks = [Task(n, 0, 0, 0.0, 9.0, work=5.0, bits_in=0.0, bits_out=0.0) for n in range(2)]
        for task in tasks:
            compute.begin(task, clock.now(), SERVICE_S)
        compute.stop(tasks[1])
        end = time.monotonic() + 20
        while not ended and time.monotonic() < end:
            await asyncio.sleep(0.01)
        compute.close()
        return compute.failures

    return ended, asyncio.run(play())


@pytest.mark.parametrize("kind", ["emulate", "burn", "command"])
def test_a_service_takes_its_time_and_one_that_is_given_up_has_no_end(kind: str) -> None:
    ended, failures = _played(kind)
    ((number, end_s),) = ended
    assert number == 0
    assert failures == 0
    # Work of the CPU is calibrated in the time that this thread has a core.
    assert SERVICE_S * (0.7 if kind == "burn" else 0.999) <= end_s
    assert end_s < SERVICE_S * (1.2 if kind == "emulate" else 30)


def test_a_program_that_fails_is_counted() -> None:
    ended, failures = _played("fails")
    assert len(ended) == 1
    assert failures == 1
