"""Mutation testing: puts one-line faults into a copy of the tree and reports which ones the fast tests do not notice.

Usage: python scripts/mutants.py [--only TEXT] [--all] [--again] [--timeout SECONDS] [--folder FOLDER]

The faults are in `faults.yaml` beside this file. Each names a file, a text that occurs there once, what replaces it,
and the tests that should notice. A fault is killed if one of them fails, or if they do not end within the timeout; it
has survived if they pass. Before any fault, the same tests must pass on the tree as it is.

Results are kept in FOLDER, so that a stopped run can continue; a fault is run again when its file, its tests or
the fault itself has changed. With --all every fault meets the whole fast suite, which takes hours.

The exit code is 0 if at least 95 % of the faults are killed, and none failed to run.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FAULTS = Path(__file__).with_name("faults.yaml")
COPIED = (
    "offload_rllib",
    "envs",
    "policies",
    "tune_configs",
    "scripts",
    "tests",
    "docs",
    "benchmarks",
    "pyproject.toml",
)
LEAST_KILLED = 0.95
# Loaded once; each run of tests is forked from the process that has them.
LIBRARIES = ("torch", "ray.rllib.algorithms.ppo", "ray.rllib.algorithms.appo", "ray.tune", "pandas", "scipy.stats")
CONTEXT = multiprocessing.get_context("forkserver")
# pytest's exit codes.
PASSED, FAILED = 0, 1
KILLED, TIMED_OUT, SURVIVED, BROKEN = "killed", "timed out", "SURVIVED", "BROKEN"


@dataclass(frozen=True)
class Fault:
    """One wrong line.

    Attributes:
        name: says what is wrong.
        file: path below the root.
        old: text that occurs once in the file.
        new: what replaces it.
        tests: files or tests, as pytest takes them.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied_to(self, text: str) -> str:
        """Return the file's text with the fault.

        Raises:
            ValueError: `old` does not occur exactly once.
        """
        if text.count(self.old) != 1 or self.new == self.old:
            raise ValueError(f"{self.name}: {self.file} holds {text.count(self.old)} times: {self.old}")
        return text.replace(self.old, self.new)

    def key(self, root: Path) -> str:
        """Return a hash of all that the result depends on and that is likely to change."""
        files = sorted({self.file, *(test.split("::")[0] for test in self.tests)})
        content = [self.old, self.new, *self.tests, *((root / file).read_text(encoding="utf-8") for file in files)]
        return hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]


def load_faults() -> list[Fault]:
    """Return the faults of `faults.yaml`."""
    content = yaml.safe_load(FAULTS.read_text(encoding="utf-8"))
    return [
        Fault(fault["name"], group["file"], fault["old"], fault["new"], tuple(fault.get("tests", group["tests"])))
        for group in content
        for fault in group["faults"]
    ]


def _test(tree: Path, tests: tuple[str, ...], output: Path) -> None:
    """Be the process that runs tests in a tree; its exit code is pytest's."""
    os.setsid()
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path.insert(0, str(tree))
    with output.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        code = pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-m", "not slow", *tests])
        sys.stdout.flush()
    os._exit(code)


def run_tests(tree: Path, tests: tuple[str, ...], timeout_s: float) -> tuple[str, str]:
    """Return how fast tests ended in a tree, and what they printed last.

    They run in a process of their own, forked from one that has loaded the libraries: those take longer than the tests.
    """
    output = tree.parent / "output.txt"
    process = CONTEXT.Process(target=_test, args=(tree, tests, output))
    process.start()
    process.join(timeout_s)
    if process.is_alive():
        with suppress(ProcessLookupError):  # it has no group of its own yet
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()
        return TIMED_OUT, ""
    outcome = {PASSED: SURVIVED, FAILED: KILLED}.get(process.exitcode or PASSED, BROKEN)
    return outcome, "\n".join(output.read_text(encoding="utf-8").strip().splitlines()[-40:])


def copy_tree(folder: Path) -> Path:
    """Return a fresh copy of what the tests need."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
        else:
            shutil.copy2(source, tree / name)
    return tree


def main() -> int:
    """Run the faults and print the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="faults whose name or file contains this text")
    parser.add_argument("--all", action="store_true", help="run the whole fast suite against every fault")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for the tests of one fault")
    parser.add_argument("--folder", type=Path, default=ROOT / ".mutants", help="of the copy, kernels and results")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{folder}: another run puts faults into this copy; give another --folder")
        return 2
    os.environ.setdefault("OFFLOAD_RLLIB_CACHE", str(folder / "cache"))
    CONTEXT.set_forkserver_preload([*LIBRARIES])
    record = folder / "results.json"
    known = {} if options.again or not record.is_file() else json.loads(record.read_text(encoding="utf-8"))

    def keep(key: str, outcome: str) -> None:
        known[key] = outcome
        record.write_text(json.dumps(known, indent=1), encoding="utf-8")

    faults = [fault for fault in load_faults() if options.only in fault.name or options.only in fault.file]
    if not faults:
        parser.error(f"--only {options.only}: no such fault")
    whole = ("tests",)
    keys = {fault: ("all " if options.all else "") + fault.key(ROOT) for fault in faults}
    waiting = [fault for fault in faults if keys[fault] not in known]
    tree = copy_tree(folder)
    if waiting:
        tests = whole if options.all else tuple(sorted({test for fault in waiting for test in fault.tests}))
        outcome, output = run_tests(tree, tests, options.timeout * max(len(tests), 4))
        if outcome != SURVIVED:
            print(output)
            print(f"without any fault the tests are not passed ({outcome}): {' '.join(tests)}")
            return 2
    for number, fault in enumerate(faults, 1):
        began = time.monotonic()
        if fault in waiting:
            path = tree / fault.file
            right = path.read_text(encoding="utf-8")
            path.write_text(fault.applied_to(right), encoding="utf-8")
            try:
                outcome, output = run_tests(tree, whole if options.all else fault.tests, options.timeout)
            finally:
                path.write_text(right, encoding="utf-8")
            if outcome == BROKEN:
                print(output)
            keep(keys[fault], outcome)
        seconds = f"{time.monotonic() - began:.0f} s" if fault in waiting else "earlier"
        print(f"[{number}/{len(faults)}] {known[keys[fault]]:9} {fault.file}: {fault.name} ({seconds})", flush=True)
    return report({fault: known[keys[fault]] for fault in faults})


def report(outcomes: dict[Fault, str]) -> int:
    """Print the survivors and the figure; return the exit code."""
    for wanted in (SURVIVED, BROKEN):
        for fault, outcome in outcomes.items():
            if outcome == wanted:
                print(f"{wanted}: {fault.name}\n  {fault.file}\n  - {fault.old}\n  + {fault.new}")
    killed = sum(outcome in {KILLED, TIMED_OUT} for outcome in outcomes.values())
    broken = sum(outcome == BROKEN for outcome in outcomes.values())
    share = killed / len(outcomes)
    late = sum(outcome == TIMED_OUT for outcome in outcomes.values())
    print(
        f"{killed} of {len(outcomes)} faults killed ({share:.1%}; {late} of them by the timeout, {broken} did not run)"
    )
    return int(share < LEAST_KILLED or broken > 0)


if __name__ == "__main__":
    sys.exit(main())
