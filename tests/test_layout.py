"""The house has floors, and each imports only from the floors below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import offload_rllib

PACKAGE = Path(offload_rllib.__file__).parent
BELOW = {
    "config": set(),
    "simulator": set(),
    "scenario": {"config", "simulator"},
    "envs": {"config", "simulator", "scenario"},
    "policies": {"config", "simulator", "scenario", "envs"},
    "rollout": {"config", "simulator", "scenario", "envs", "policies"},
    "algorithms": {"config", "simulator", "scenario", "envs", "policies", "rollout"},
    "experiment": {"config", "simulator", "scenario", "envs", "policies", "rollout", "algorithms"},
}
SHARED = {"version"}
# The ground floors know of the outside no more than these; llvmlite is numba's own, for what numba has no word for.
OUTSIDE = {"config": {"pydantic", "pydantic_core", "yaml"}, "simulator": {"numpy", "numba", "llvmlite"}}


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("floor", sorted(BELOW))
def test_a_floor_imports_only_from_below(floor: str) -> None:
    import sys

    files = sorted((PACKAGE / floor).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            top, *rest = name.split(".")
            if top == "offload_rllib":
                assert rest, f"{path} imports the package itself"
                assert rest[0] in BELOW[floor] | SHARED | {floor}, f"{path} imports {name}"
            elif floor in OUTSIDE:
                assert top in OUTSIDE[floor] | set(sys.stdlib_module_names), f"{path} imports {name}"
