"""Small sweeps, planned as if they stood in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from helpers.environments import small_environment
from helpers.policies import policy_config
from offload_rllib.config.loading import load_sweep
from offload_rllib.sweep.plan import SweepPlan, plan_sweep

STEPS = 640


def write_files(folder: Path) -> Path:
    """Write an environment and a policy that trains for a few iterations; return the folder."""
    (folder / "ring.yaml").write_text(yaml.safe_dump(small_environment(description="a ring of four")))
    policy = policy_config().model_dump(mode="json", by_alias=True)
    (folder / "quick.yaml").write_text(yaml.safe_dump(policy))
    return folder


def plan_of(files: Path, **keys: Any) -> SweepPlan:
    """Return the plan of a small sweep, as if it were a file in `files`."""
    content: dict[str, Any] = {
        "environment": "ring.yaml",
        "policy": "quick.yaml",
        "space": {"policy.algorithm.lr": {"log_uniform": [1e-4, 1e-2]}},
        "budget": {"trials": 4, "env_steps": STEPS, "report_env_steps": 160},
        "validation": {"episodes": 2},
    }
    path = files / "sweep.yaml"
    path.write_text(yaml.safe_dump(content | keys))
    return plan_sweep(load_sweep(path))
