"""The log of a training that is still written to: read once, and then only what was added."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from offload_rllib.config import ConfigError

# As `result.json` has them; the modules that write them need Ray.
STEPS = "timesteps_total"
FIGURES = ("env_runners", "offload")
VALIDATION = "validation"
MOST_POINTS = 300


def value_at(row: Mapping[str, Any], keys: Sequence[str]) -> float:
    """Return a number of a nested row; NaN if the row has none there."""
    found: Any = row
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, int | float) else float("nan")


class Log:
    """The numbers of some keys in a `result.json`, and its last row.

    Attributes:
        steps: environment steps [n] of the rows.
        last: the latest row; empty before the first.
    """

    def __init__(self, path: Path, curves: Mapping[str, Sequence[str]]) -> None:
        """Read nothing yet.

        Args:
            path: of the file, which need not exist yet.
            curves: by name, where a row has the number.
        """
        self._path, self._keys = path, dict(curves)
        self._begin()

    def _begin(self) -> None:
        self._offset = 0
        self.steps: list[float] = []
        self.last: dict[str, Any] = {}
        self._values: dict[str, list[float]] = {name: [] for name in self._keys}

    def update(self) -> None:
        """Read the rows that were added; a file that has become shorter is read again.

        Raises:
            ConfigError: it is not a log of results.
        """
        for line in self._new_lines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{self._path}: not a log of results: row {len(self.steps) + 1}: {error}") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{self._path}: not a log of results: row {len(self.steps) + 1} is not an object")
            self.last = row
            self.steps.append(value_at(row, (STEPS,)))
            for name, keys in self._keys.items():
                self._values[name].append(value_at(row, keys))

    def _new_lines(self) -> list[bytes]:
        """Return the lines that are complete; the last may still be in writing."""
        try:
            # A pipe would block until another process writes into it.
            with os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode):
                    raise ConfigError(f"{self._path}: cannot be read: not a regular file")
                if about.st_size < self._offset:
                    self._begin()
                file.seek(self._offset)
                complete, newline, _ = file.read(about.st_size - self._offset).rpartition(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be read: {error.strerror}") from error
        self._offset += len(complete) + len(newline)
        return complete.splitlines() if newline else []

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Return environment steps and values; of many rows the means of groups of them."""
        steps, values = np.array(self.steps), np.array(self._values[name])
        known = np.isfinite(steps) & np.isfinite(values)
        steps, values = steps[known], values[known]
        groups = np.array_split(np.arange(len(steps)), min(MOST_POINTS, len(steps))) if len(steps) else []
        return [float(steps[g].mean()) for g in groups], [float(values[g].mean()) for g in groups]
