"""What a node writes down of its tasks, and gives to the controller a little later."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.types import FINISHED, Array
from offload_rllib.testbed.setup import MOVE, ROW
from offload_rllib.testbed.wire import Task


class Journal:
    """Ends of tasks, and their moves to other nodes, since they were taken last."""

    def __init__(self) -> None:
        """Begin empty."""
        self._ends: list[tuple[Task, float, int]] = []
        self._moves: list[tuple[float, int, int, int]] = []

    def ended(self, task: Task, ended_s: float, outcome: int) -> None:
        """Note the end of a task, or that the play ended before it (`simulator.types.OPEN`)."""
        self._ends.append((task, ended_s, outcome))

    def moved(self, task: Task, node: int, now_s: float) -> None:
        """Note that a task was given to a link."""
        self._moves.append((now_s, task.number, node, task.hops))

    def take(self) -> dict[str, Array]:
        """Return what was noted, as `rows` [n] ROW and `moves` [m] MOVE, and forget it."""
        rows = np.zeros(len(self._ends), ROW)
        for place, (task, ended_s, outcome) in enumerate(self._ends):
            rows[place]["number"] = task.number
            rows[place]["decision_s"] = task.decision_s
            row = rows[place]["row"]
            for name in ("created_s", "deadline_s", "work", "bits_in", "bits_out", "origin", "type", "node", "hops"):
                row[name] = getattr(task, name)
            for name in ("holding_s", "waiting_s", "service_s", "transfer_s"):
                row[name] = getattr(task, name)
            row["ended_s"] = ended_s
            row["return_s"] = ended_s - task.service_end_s if outcome == FINISHED else 0.0
            row["outcome"] = outcome
        moves = np.array(self._moves, MOVE)
        self._ends.clear()
        self._moves.clear()
        return {"rows": rows, "moves": moves}

    def __len__(self) -> int:
        """Return how much there is to take."""
        return len(self._ends) + len(self._moves)
