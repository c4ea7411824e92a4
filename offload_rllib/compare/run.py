"""A comparison from its plan to its report: trains policies, plays in parallel, and resumes after a stop."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from offload_rllib.cluster.connection import connect
from offload_rllib.cluster.parallel import in_parallel
from offload_rllib.compare.plan import (
    ComparisonPlan,
    Training,
    contenders_at,
    load_plan,
    places_of,
    trainings_of,
)
from offload_rllib.config import ConfigError
from offload_rllib.config.files import read_json, written_at_once
from offload_rllib.config.trust import functions_of
from offload_rllib.envs.vector import compile_kernels
from offload_rllib.evaluation.evaluate import Cell, Played, Player, assemble, cells_of
from offload_rllib.evaluation.players import Contender
from offload_rllib.evaluation.results import Comparison
from offload_rllib.policies.saved import packed, version_of
from offload_rllib.runs.folder import COMPARISON_PLAN, RecordedFolder
from offload_rllib.runs.lock import locked
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.jit import source_hash
from offload_rllib.simulator.metrics import BIN_MIDDLES
from offload_rllib.training.several import train_all
from offload_rllib.training.train import available_cpus, quieten

PLAN = COMPARISON_PLAN
COMPARISONS = Path("comparisons")
RUNS, CELLS = "runs", "cells"
TASKS = "tasks.parquet"
MOST_NAMED = 2  # in the name of a folder
FORMAT = 2  # of a cell's file


@dataclass(frozen=True)
class ComparisonFolder(RecordedFolder):
    """A comparison on disk.

    Contents: `compare.yaml` (the plan, resolved), `state.json` (versions, command, state), `runs/` (the runs that were
    trained for it), `cells/` (what was played so far), and the reports: see `compare.report`.
    """

    KIND = "comparison"
    VERB = "compare"
    PARENT = COMPARISONS
    RECORD = "state.json"
    CONTENT = (PLAN,)

    @staticmethod
    def create(name: str | None, plan: ComparisonPlan, command: str, stem: str | None = None) -> ComparisonFolder:
        """Make the folder of a new comparison.

        Args:
            name: of the folder, or a path; None takes `stem` with the next free number.
            plan: what is to be done.
            command: that repeats it.
            stem: None takes `default_name`.

        Raises:
            ConfigError: the folder exists, or cannot be made.
        """
        folder = ComparisonFolder(ComparisonFolder.new_path(name, stem or default_name(plan)), trust=True)
        fingerprints = {place.label: place.fingerprint for place in places_of(plan)}
        content = {PLAN: plan.model_dump(mode="json", by_alias=True)}
        about = {"command": command, "environments": fingerprints, "functions": functions_of(plan)}
        folder.make(content, **about, simulator=source_hash())
        return folder

    @property
    def plan(self) -> ComparisonPlan:
        """What is to be done.

        Raises:
            ConfigError: the fingerprint of an environment, or the version of the simulator, differs from that at the
                start of the comparison.
        """
        plan = load_plan(self.path / PLAN, trust=self.trust)
        state = self.entries()
        begun = state["environments"]
        for place in places_of(plan):
            if begun.get(place.label) != place.fingerprint:
                raise ConfigError(
                    f"{self.path}: {place.label} has the fingerprint {place.fingerprint} now, and had "
                    f"{begun.get(place.label)} when the comparison was begun: the results do not go into one table"
                )
        if state.get("simulator") != source_hash():
            raise ConfigError(
                f"{self.path}: begun with another version of the simulator (sources {state.get('simulator')}, now "
                f"{source_hash()}): the results do not go into one table. Start again: "
                f"{shlex.join(['offload-rllib', 'compare', str(self.path / PLAN)])}"
            )
        return plan


def default_name(plan: ComparisonPlan) -> str:
    """Return what a comparison's folder is called unless it is named: environments and policies, a few of each."""

    def some(names: Iterable[str]) -> str:
        names = list(names)
        shown = names if len(names) <= MOST_NAMED + 1 else [*names[:MOST_NAMED], f"{len(names) - MOST_NAMED}_more"]
        return "-".join(re.sub(r"[^\w.-]+", "_", name) for name in shown)

    return f"{some(plan.environments)}-{some(Path(name).name for name in plan.policies)}"


def run_comparison(folder: ComparisonFolder, console: Console, *, workers: int | None = None) -> Comparison | None:
    """Run a comparison's plan, or the rest of it.

    Args:
        folder: of the comparison; what it holds already is not done again.
        console: where progress is shown.
        workers: Ray tasks that play at the same time; None: as many as CPUs. The results do not depend on it.

    Returns:
        The results, for `compare_report.finish_comparison`; None after an interruption, with everything finished so far
        on disk.

    Raises:
        TrainingError: a training failed.
        ConfigError: another process works on the comparison.
    """
    plan = folder.plan
    quieten()
    with locked(folder.path, functools.partial(console.print, soft_wrap=True, highlight=False)):
        return _run(folder, plan, console, workers)


def _run(folder: ComparisonFolder, plan: ComparisonPlan, console: Console, workers: int | None) -> Comparison | None:
    folder.record(state="training")
    try:
        with connect():
            runs = _train(folder, plan, console)
            if runs is None:
                folder.record(state="interrupted")
                return None
            cells = [
                cell
                for place in places_of(plan)
                for cell in cells_of(
                    place,
                    contenders_at(plan, place, runs),
                    episodes=plan.episodes,
                    seed=plan.held_out_seed,
                    log=plan.task_log,
                )
            ]
            played = _play(folder, cells, console, workers or int(available_cpus()))
    except KeyboardInterrupt:
        folder.record(state="interrupted")
        return None
    except BaseException:
        folder.record(state="failed")
        raise
    result = assemble(cells, played).with_own_metrics(plan.metrics)
    state = folder.entries()
    kept = ("version", "packages", "python", "platform", "command", "simulator")
    result.record.update({key: state[key] for key in kept})
    result.save(folder.path)
    if plan.task_log:
        _write_tasks(folder, cells)
    return result


def _train(folder: ComparisonFolder, plan: ComparisonPlan, console: Console) -> list[tuple[Training, Path]] | None:
    """Train the remaining policies; return the trainings with their run folders, None after an interruption."""
    runs: list[tuple[Training, Path]] = []
    waiting: list[RunFolder] = []
    for training in trainings_of(plan):
        path = folder.path / RUNS / training.folder
        run = _run_folder(path, training, trust=folder.trust)
        if run.state != "finished":
            if not run.checkpoints() and run.state != "created":  # it had not come to its first checkpoint
                shutil.rmtree(path)
                run = _run_folder(path, training, trust=folder.trust)
            waiting.append(run)
        runs.append((training, path))
    return runs if train_all(waiting, console) else None


def _run_folder(path: Path, training: Training, *, trust: bool) -> RunFolder:
    if path.is_dir():
        return RunFolder.open(path, trust=trust)
    return RunFolder.create(
        str(path), training.place.config, training.config, "", environment_name=training.place.environment
    )


def cell_file(folder: Path, index: int) -> Path:
    """Return the file of the results of a cell, named by its place in the plan."""
    return folder / CELLS / f"{index:05d}.json"


def _tasks_file(folder: Path, index: int) -> Path:
    return cell_file(folder, index).with_suffix(".parquet")


def weights_of(contender: Contender) -> str:
    """Return a hash of a trained policy's files; nothing for a rule."""
    if isinstance(contender.source, Path):
        return version_of(packed(contender.source))
    return ""


def _identity(cell: Cell) -> dict[str, Any]:
    """Return what a kept cell must agree with to be used again."""
    return {
        "format": FORMAT,
        "fingerprint": cell.place.fingerprint,
        "policy": cell.contender.name,
        "training_seed": cell.contender.training_seed,
        "weights": weights_of(cell.contender),
        "first": cell.first,
        "count": cell.count,
        "seed": cell.seed,
    }


def keep(folder: Path, index: int, cell: Cell, played: Played) -> None:
    """Write the results of a cell into a comparison's folder."""
    bins = np.flatnonzero(played.responses)
    content = _identity(cell) | {
        "figures": played.figures,
        "responses": {int(i): int(played.responses[i]) for i in bins},
        "bins": len(played.responses),
        "timed": played.timed,
        "wall_s": played.wall_s,
        "cpu_s": played.cpu_s,
        "seconds": played.seconds,
    }
    if played.tasks is not None:
        with written_at_once(_tasks_file(folder, index)) as partial:
            pq.write_table(played.tasks, partial)
    with written_at_once(cell_file(folder, index)) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def kept(folder: Path, index: int, cell: Cell) -> Played | None:
    """Return the results of a cell that a comparison's folder holds; None if it was not played yet.

    Raises:
        ConfigError: they are of other weights, episodes, or another environment or policy.
    """
    path = cell_file(folder, index)
    if not path.is_file():
        return None
    content = read_json(path, "the results of a part of a comparison")
    wanted = _identity(cell)
    if {key: content.get(key) for key in wanted} != wanted:
        raise ConfigError(f"{path}: holds the results of something else than the plan says; delete it to play again")
    try:
        responses = np.zeros(min(content["bins"], len(BIN_MIDDLES)), np.int64)
        for i, count in content["responses"].items():
            responses[int(i)] = count
        costs = [content[key] for key in ("timed", "wall_s", "cpu_s", "seconds")]
        return Played(content["figures"], responses, *costs)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error!r}); delete it to play again") from error


def _batches(cells: Sequence[Cell], missing: Iterable[int]) -> list[list[int]]:
    """Return the cells of one policy at one place together: a worker reads the policy and builds the network once."""
    batches: dict[Any, list[int]] = {}
    for index in missing:
        cell = cells[index]
        batches.setdefault((cell.place.key, cell.contender.name, cell.contender.training_seed), []).append(index)
    return list(batches.values())


@ray.remote(num_cpus=1, max_retries=2)
def _play_batch(cells: list[Cell]) -> list[Played]:
    player = Player()
    return [player.play(cell) for cell in cells]


def _play(folder: ComparisonFolder, cells: list[Cell], console: Console, workers: int) -> list[Played]:
    (folder.path / CELLS).mkdir(exist_ok=True)
    played = {i: done for i, cell in enumerate(cells) if (done := kept(folder.path, i, cell)) is not None}
    waiting = _batches(cells, (index for index in range(len(cells)) if index not in played))
    if waiting:
        with console.status("loading the simulator's kernels (a new installation compiles them, for about a minute)"):
            for place in {cells[batch[0]].place.environment: cells[batch[0]].place for batch in waiting}.values():
                compile_kernels(build_scenario(place.config))
    columns = (TextColumn("playing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    def start(batch: list[int]) -> Any:
        return _play_batch.remote([cells[index] for index in batch])

    with (
        Progress(*columns, console=console, transient=True) as progress,
        in_parallel(start, waiting, workers) as ended,
    ):
        bar = progress.add_task("playing", total=len(cells), completed=len(played))
        for batch, results in ended:
            for index, result in zip(batch, results, strict=True):
                keep(folder.path, index, cells[index], result)
                played[index] = result
            progress.update(bar, completed=len(played))
    return [played[index] for index in range(len(cells))]


def _write_tasks(folder: ComparisonFolder, cells: Sequence[Cell]) -> None:
    """Put the logs of all cells into one file, one row group each."""
    writer: pq.ParquetWriter | None = None
    with written_at_once(folder.path / TASKS) as partial:
        for index in range(len(cells)):
            table = pq.read_table(_tasks_file(folder.path, index))
            # Dictionaries differ from network to network; plain text is the same everywhere.
            table = pa.table(
                {
                    name: column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
                    for name, column in zip(table.column_names, table.columns, strict=True)
                }
            )
            writer = writer or pq.ParquetWriter(partial, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
