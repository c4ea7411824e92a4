"""The house has floors, and each imports only from the floors below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from helpers.order import LONGEST_FIRST

import offload_rllib

PACKAGE = Path(offload_rllib.__file__).parent
TESTS = Path(__file__).parent
ROOT = "offload_rllib"
# From the ground. Folders of one floor do not know each other, but for what `BESIDE` says.
FLOORS = (
    ("version",),
    ("config", "simulator"),
    ("scenario",),
    ("envs",),
    ("policies", "rollout"),
    ("algorithms", "serving"),
    ("runs", "cluster"),
    ("training", "evaluation", "testbed"),
    ("reporting", "bench", "checking"),
    ("compare", "sweep", "replay", "watching", "suite"),
    ("starter", "commands", "cli", "__main__"),
)
BESIDE = {
    "rollout": {"policies"},
    "training": {"evaluation"},  # a model card states intervals
    "watching": {"replay"},  # of the latest checkpoint
    "testbed": {"evaluation"},  # its logs are those of an evaluation, and so are the statistics
    "commands": {"starter"},
    "cli": {"commands"},
    "__main__": {"cli"},
}
# The ground floors know of the outside no more than these; llvmlite is numba's own, for what numba has no word for.
OUTSIDE = {"config": {"pydantic", "pydantic_core", "yaml"}, "simulator": {"numpy", "numba", "llvmlite", "filelock"}}
MOST_FILES = 25


def module_of(path: Path) -> str:
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def imported(path: Path) -> frozenset[str]:
    """Return the modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names} & FILES.keys()
            names |= members or {node.module}
    return frozenset(names)


def test_every_folder_has_a_floor() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert files | folders == {name for floor in FLOORS for name in floor}


@pytest.mark.parametrize("floor", [name for floor in FLOORS for name in floor])
def test_a_floor_imports_only_from_below(floor: str) -> None:
    below: set[str] = set()
    for names in FLOORS:
        if floor in names:
            break
        below |= set(names)
    for module, path in FILES.items():
        if module.split(".")[1:2] != [floor]:
            continue
        for name in imported(path):
            top, *rest = name.split(".")
            if top == ROOT and rest:
                assert rest[0] in below | BESIDE.get(floor, set()) | {floor}, f"{path} imports {name}"
            elif top == ROOT:
                assert floor in FLOORS[-1], f"{path} imports the package itself"
            elif floor in OUTSIDE:
                assert top in OUTSIDE[floor] | sys.stdlib_module_names, f"{path} imports {name}"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {
        module: {name for name in imported(path) if name in FILES and name != module} for module, path in FILES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_runs_and_their_evaluation_work_without_ray() -> None:
    modules = [module for module in FILES if module.split(".")[1:2] in (["runs"], ["evaluation"])]
    program = f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_no_folder_is_full() -> None:
    for folder in {path.parent for path in FILES.values()}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder


def test_no_test_module_imports_another() -> None:
    modules = {path.stem for path in TESTS.glob("*.py")}
    for path in TESTS.rglob("*.py"):
        from_tests = {name for name in imported(path) if name.partition(".")[0] in modules}
        assert not from_tests, f"{path} imports {from_tests}: what several tests need is in tests/helpers"
    assert {path.stem for path in TESTS.glob("*.py") if not path.stem.startswith("test_")} == {"conftest"}


def test_a_name_in_the_schema_means_one_thing() -> None:
    found: dict[str, Path] = {}
    for path in sorted((PACKAGE / "config").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [
                    target.id for target in node.targets if isinstance(target, ast.Name) and target.id != "__all__"
                ]
            else:
                continue
            for name in names:
                assert name not in found, f"{path} and {found[name]} both define {name}"
                found[name] = path


def test_files_that_are_to_come_first_do_so(request: pytest.FixtureRequest) -> None:
    assert [name for name in LONGEST_FIRST if not (TESTS / name).is_file()] == []
    order = list(dict.fromkeys(item.path.name for item in request.session.items))
    first = [name for name in LONGEST_FIRST if name in order]
    assert order[: len(first)] == first
