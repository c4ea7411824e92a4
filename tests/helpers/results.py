"""What a training reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def trained_steps(run: Path) -> list[int]:
    """Return the environment steps of each result of a run."""
    with (run / "tune" / "trial" / "result.json").open() as file:
        return [json.loads(line)["timesteps_total"] for line in file]


def leaves(value: Any) -> int:
    """Count the numbers in nested dictionaries."""
    return sum(map(leaves, value.values())) if isinstance(value, dict) else 1
