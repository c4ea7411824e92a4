"""The scenario's time in a process: its own clock, and timers whose lateness is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

# Timers of one play that are remembered.
MOST_REMEMBERED = 2**20


class ScenarioClock:
    """Scenario seconds since the start of a play, `speed` of them per real second.

    Attributes:
        speed: scenario seconds per real second.
        late_s: real seconds by which each timer came late.
    """

    def __init__(self, start: float, speed: float) -> None:
        """Take the start, by this process's monotonic clock."""
        self.start = start
        self.speed = speed
        self.late_s: list[float] = []

    def now(self) -> float:
        """Return the present scenario time, in seconds."""
        return (time.monotonic() - self.start) * self.speed

    def at(self, time_s: float, call: Callable[..., None], *arguments: Any) -> asyncio.TimerHandle:
        """Call a function at a scenario time, or at once if it is past. Timers at equal times run in their order."""
        due = self.start + time_s / self.speed
        return asyncio.get_running_loop().call_at(due, self._ring, due, call, arguments)

    def _ring(self, due: float, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if len(self.late_s) < MOST_REMEMBERED:
            self.late_s.append(max(time.monotonic() - due, 0.0))
        call(*arguments)
