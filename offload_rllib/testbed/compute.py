"""How a server is busy with a task: a timer, real work of the CPU, or a program of the user."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from offload_rllib.testbed.clock import ScenarioClock
from offload_rllib.testbed.processes import end_with_parent
from offload_rllib.testbed.setup import NodeOrder
from offload_rllib.testbed.wire import Task

# One unit of work of the CPU: long beside a call, short beside a task, so that it can be stopped.
_ITERATIONS = 1000
_CALIBRATION_S = 0.2

Done = Callable[[Task, float], None]


class Compute(Protocol):
    """What keeps servers busy.

    Attributes:
        failures: how often a program failed.
    """

    failures: int

    def begin(self, task: Task, start_s: float, service_s: float) -> None:
        """Begin with a task at a scenario time; `service_s` is work / speed. `done` is called at its end."""

    def stop(self, task: Task) -> None:
        """Give a task up, without a call of `done`."""

    def close(self) -> None:
        """Give everything up."""


class Emulated:
    """A server is busy for work / speed, by a timer: the next task begins when the timer was due, however late it."""

    def __init__(self, clock: ScenarioClock, done: Done) -> None:
        """Take the clock, and what to call with each task and the time of its end."""
        self._clock = clock
        self._done = done
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self.failures = 0

    def begin(self, task: Task, start_s: float, service_s: float) -> None:
        """As `Compute.begin`."""
        end_s = start_s + service_s
        self._timers[task.number] = self._clock.at(end_s, self._end, task, end_s)

    def _end(self, task: Task, end_s: float) -> None:
        del self._timers[task.number]
        self._done(task, end_s)

    def stop(self, task: Task) -> None:
        """As `Compute.stop`."""
        self._timers.pop(task.number).cancel()

    def close(self) -> None:
        """As `Compute.close`."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


def work_unit() -> None:
    """Keep one core busy for a moment, without the interpreter's lock."""
    hashlib.pbkdf2_hmac("sha256", b"offload", b"rllib", _ITERATIONS)


def calibrate() -> float:
    """Return how many units of work one core of this device does per second of its own: others may use it, too."""
    done, began = 0, time.thread_time()
    while (elapsed := time.thread_time() - began) < _CALIBRATION_S:
        work_unit()
        done += 1
    return done / elapsed


class Burnt:
    """The CPU works as long as the task would take on an idle device; who shares the core waits longer."""

    def __init__(self, clock: ScenarioClock, done: Done, servers: int, units_per_s: float) -> None:
        """Take the clock, what to call at an end, the servers (a thread each), and the result of `calibrate`."""
        self._clock = clock
        self._done = done
        self._units_per_s = units_per_s
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(servers)
        self._stopped: dict[int, threading.Event] = {}
        self.failures = 0

    def begin(self, task: Task, start_s: float, service_s: float) -> None:
        """As `Compute.begin`."""
        del start_s
        stopped = self._stopped[task.number] = threading.Event()
        units = round(service_s / self._clock.speed * self._units_per_s)
        self._threads.submit(self._work, task, units, stopped)

    def _work(self, task: Task, units: int, stopped: threading.Event) -> None:
        for _ in range(units):
            if stopped.is_set():
                return
            work_unit()
        if not stopped.is_set():
            self._loop.call_soon_threadsafe(self._end, task, self._clock.now(), stopped)

    def _end(self, task: Task, end_s: float, stopped: threading.Event) -> None:
        if not stopped.is_set():
            del self._stopped[task.number]
            self._done(task, end_s)

    def stop(self, task: Task) -> None:
        """As `Compute.stop`."""
        self._stopped.pop(task.number).set()

    def close(self) -> None:
        """As `Compute.close`."""
        for stopped in self._stopped.values():
            stopped.set()
        self._stopped.clear()
        self._threads.shutdown(wait=False)


class Commanded:
    """A program runs for each task; its environment says what the task is, and its end is the end of the service."""

    def __init__(self, clock: ScenarioClock, done: Done, command: tuple[str, ...]) -> None:
        """Take the clock, what to call at an end, and the program with its arguments."""
        self._clock = clock
        self._done = done
        self._command = command
        self._running: dict[int, asyncio.Task[None]] = {}
        self.failures = 0

    def begin(self, task: Task, start_s: float, service_s: float) -> None:
        """As `Compute.begin`."""
        del start_s
        about = {
            "OFFLOAD_TASK": str(task.number),
            "OFFLOAD_WORK": repr(task.work),
            "OFFLOAD_BITS_IN": repr(task.bits_in),
            "OFFLOAD_BITS_OUT": repr(task.bits_out),
            "OFFLOAD_SECONDS": repr(service_s / self._clock.speed),
        }
        self._running[task.number] = asyncio.get_running_loop().create_task(self._run(task, about))

    async def _run(self, task: Task, about: dict[str, str]) -> None:
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env=os.environ | about,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
            if await process.wait() != 0:
                self.failures += 1
        except OSError:
            self.failures += 1
        except asyncio.CancelledError:
            if process is not None and process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            raise
        del self._running[task.number]
        self._done(task, self._clock.now())

    def stop(self, task: Task) -> None:
        """As `Compute.stop`."""
        self._running.pop(task.number).cancel()

    def close(self) -> None:
        """As `Compute.close`."""
        for running in self._running.values():
            running.cancel()
        self._running.clear()


def make_compute(order: NodeOrder, clock: ScenarioClock, done: Done) -> Compute:
    """Return what keeps the servers of a node busy, by its options."""
    if order.options.compute == "burn":
        servers = int(order.network.arrays.node[order.n]["servers"])
        return Burnt(clock, done, servers, order.units_per_s)
    if order.options.compute == "command":
        return Commanded(clock, done, order.options.command)
    return Emulated(clock, done)
