"""Mutation testing: puts one-line faults into copies of the tree and reports which ones the fast tests do not notice.

Usage: python scripts/mutants.py [--only TEXT ...] [--jobs N] [--all] [--again] [--timeout SECONDS] [--folder FOLDER]

The faults are in `faults.yaml` beside this file. Each names a file, a text that occurs there once, what replaces it,
and the tests that should notice. A fault is killed if one of them fails, or if they do not end within the timeout; it
has survived if they pass. Before any fault, the same tests must pass on the tree as it is; how long each takes is noted
then, and the quick ones come first when a fault is looked for.

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
import queue
import re
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
# In a folder of kernels, but without any, nor a constant for them: compiled code is that of the right file.
INTERPRETED = ("offload_rllib/envs/arrival.py", "offload_rllib/simulator/metrics.py")
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


class Timing:
    """A plugin for pytest: notes how long every test takes, and runs the quick ones first."""

    def __init__(self, known_s: dict[str, float]) -> None:
        """Keep what is known of earlier runs."""
        self.known_s = known_s
        self.taken_s: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the tests in order; the sort is stable, so that unknown ones stay together, in front."""
        items.sort(key=lambda item: self.known_s.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up what preparing, running and ending a test takes."""
        self.taken_s[report.nodeid] = self.taken_s.get(report.nodeid, 0.0) + report.duration


def _test(tree: Path, tests: tuple[str, ...], known_s: dict[str, float]) -> None:
    """Be the process that runs tests in a tree; its exit code is pytest's."""
    os.setsid()
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    os.environ["OFFLOAD_RLLIB_CACHE"] = str(tree.parent / "cache")
    sys.path.insert(0, str(tree))
    timing = Timing(known_s)
    with (tree.parent / "output.txt").open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        arguments = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-m", "not slow", *tests]
        code = pytest.main(arguments, plugins=[timing])
        sys.stdout.flush()
    (tree.parent / "taken.json").write_text(json.dumps(timing.taken_s), encoding="utf-8")
    os._exit(code)


def run_tests(
    tree: Path, tests: tuple[str, ...], timeout_s: float, known_s: dict[str, float] | None = None
) -> tuple[str, str]:
    """Return how fast tests ended in a tree, and what they printed last.

    They run in a process of their own, forked from one that has loaded the libraries: those take longer than the tests.
    """
    process = CONTEXT.Process(target=_test, args=(tree, tests, known_s or {}))
    process.start()
    process.join(timeout_s)
    if process.is_alive():
        with suppress(ProcessLookupError):  # it has no group of its own yet
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()
        return TIMED_OUT, ""
    outcome = {PASSED: SURVIVED, FAILED: KILLED}.get(process.exitcode or PASSED, BROKEN)
    output = (tree.parent / "output.txt").read_text(encoding="utf-8")
    return outcome, "\n".join(output.strip().splitlines()[-40:])


@dataclass
class Copy:
    """A copy of the tree, with its compiled kernels, in which one fault at a time is tried.

    Attributes:
        folder: of the copy.
        timeout_s: for the tests of one fault.
        taken_s: seconds that every test took without a fault.
    """

    folder: Path
    timeout_s: float
    taken_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Copy what the tests need."""
        self.tree = self.folder / "tree"
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(parents=True)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, self.tree / name)

    def without_fault(self, tests: tuple[str, ...]) -> tuple[str, dict[str, float]]:
        """Return what the tests print if they fail, otherwise nothing, and the seconds that each took."""
        outcome, output = run_tests(self.tree, tests, 4 * self.timeout_s)
        if outcome != SURVIVED:
            return f"{output}\nwithout any fault the tests do not pass ({outcome}): {' '.join(tests)}", {}
        return "", json.loads((self.folder / "taken.json").read_text(encoding="utf-8"))

    def with_fault(self, fault: Fault, tests: tuple[str, ...]) -> tuple[str, str]:
        """Return how the tests end with a fault, and the test that failed, or what was printed if none could run."""
        # The processes that run tests import this file, and must have the package of the copy.
        from offload_rllib.simulator.jit import source_hash  # noqa: PLC0415

        path = self.tree / fault.file
        right, stamp = path.read_text(encoding="utf-8"), path.stat()
        kernels = self.folder / "cache" / "kernels"
        before, own = set(kernels.glob("*")), kernels / source_hash(self.tree / "offload_rllib")
        path.write_text(fault.applied_to(right), encoding="utf-8")
        if fault.file in INTERPRETED and own in before:
            shutil.copytree(own, kernels / source_hash(self.tree / "offload_rllib"))
        try:
            outcome, output = run_tests(self.tree, tests, self.timeout_s, self.taken_s)
        finally:
            path.write_text(right, encoding="utf-8")
            # Compiled kernels are those of a file of this time.
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
            for folder in set(kernels.glob("*")) - before:
                shutil.rmtree(folder)
        if outcome == BROKEN:
            return outcome, output
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        return outcome, failed[1] if failed else ""


class Record:
    """Results of earlier runs and of this one, by the hash of what they depend on."""

    def __init__(self, path: Path, *, forget: bool) -> None:
        """Read what is there."""
        self._path = path
        self._lock = threading.Lock()
        self.known: dict[str, Any] = {}
        if path.is_file() and not forget:
            self.known = json.loads(path.read_text(encoding="utf-8"))

    def keep(self, key: str, value: Any) -> None:
        """Add a result."""
        with self._lock:
            self.known[key] = value
            self._path.write_text(json.dumps(self.known, indent=1), encoding="utf-8")


def tree_hash() -> str:
    """Return a hash of all that is copied, and of the paths."""
    digest = hashlib.sha256()
    for name in COPIED:
        for path in sorted((ROOT / name).rglob("*")) or [ROOT / name]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def try_without_fault(copies: list[Copy], tests: list[str], record: Record) -> str:
    """Run tests on the tree as it is, several at a time; return what was printed if some fail.

    What has passed on this very tree is not run again.
    """
    groups: dict[str, list[str]] = {}
    for test in tests:
        groups.setdefault(test.partition("::")[0], []).append(test)
    tree = tree_hash()
    free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)
    taken_s: dict[str, float] = {}

    def run(group: list[str]) -> str:
        key = f"{tree} {' '.join(group)}"
        if key not in record.known:
            copy = free.get()
            began = time.monotonic()
            failed, seconds = copy.without_fault(tuple(group))
            free.put(copy)
            if failed:
                return failed
            print(f"passed without a fault: {' '.join(group)} ({time.monotonic() - began:.0f} s)", flush=True)
            record.keep(key, seconds)
        taken_s.update(record.known[key])
        return ""

    with ThreadPoolExecutor(len(copies)) as pool:
        failed = next(filter(None, pool.map(run, groups.values())), "")
    for copy in copies:
        copy.taken_s = taken_s
    return failed


def options_of_the_command() -> argparse.Namespace:
    """Return the options given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=[""], help="faults whose name or file contains one of these texts")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4), help="faults tried at a time")
    parser.add_argument("--all", action="store_true", help="run the whole fast suite against every fault")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for the tests of one fault")
    parser.add_argument("--folder", type=Path, default=ROOT / ".mutants", help="of the copies, kernels and results")
    return parser.parse_args()


def main() -> int:
    """Run the faults and print the figure."""
    options = options_of_the_command()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{folder}: another run puts faults into these copies; give another --folder")
        return 2
    CONTEXT.set_forkserver_preload([*LIBRARIES])
    record = Record(folder / "results.json", forget=options.again)
    faults = [fault for fault in load_faults() if any(o in fault.name or o in fault.file for o in options.only)]
    if not faults:
        print(f"--only {' '.join(options.only)}: no such fault")
        return 2
    tests = {fault: ("tests",) if options.all else fault.tests for fault in faults}
    keys = {fault: ("all " if options.all else "") + fault.key(ROOT) for fault in faults}
    waiting = [fault for fault in faults if keys[fault] not in record.known]
    for number, fault in enumerate([fault for fault in faults if fault not in waiting], 1):
        print(_line(number, len(faults), record.known[keys[fault]], fault, "earlier"))
    if waiting:
        copies = [Copy(folder / str(job), options.timeout) for job in range(min(options.jobs, len(waiting)))]
        concerned = sorted({test for fault in waiting for test in tests[fault]})
        failed = try_without_fault(copies, concerned, record)
        if failed:
            print(failed)
            return 2
        todo: queue.SimpleQueue[Fault] = queue.SimpleQueue()
        for fault in waiting:
            todo.put(fault)

        def work(copy: Copy) -> None:
            with suppress(queue.Empty):
                while True:
                    fault = todo.get_nowait()
                    began = time.monotonic()
                    result = copy.with_fault(fault, tests[fault])
                    record.keep(keys[fault], result)
                    seconds = f"{time.monotonic() - began:.0f} s"
                    done = sum(keys[other] in record.known for other in faults)
                    print(_line(done, len(faults), result, fault, seconds), flush=True)

        with ThreadPoolExecutor(len(copies)) as pool:
            list(pool.map(work, copies))
    return report({fault: record.known[keys[fault]][0] for fault in faults})


def _line(number: int, count: int, result: tuple[str, str], fault: Fault, seconds: str) -> str:
    outcome, by = result
    if outcome == BROKEN:
        print(by)
    told = f" by {by}" if outcome == KILLED else ""
    return f"[{number}/{count}] {outcome:9} {fault.file}: {fault.name} ({seconds}){told}"


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
