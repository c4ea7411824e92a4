"""Train shipped learners on the scenarios of the suite, and keep what they score as reference results.

Usage: python -m scripts.suite_learners [NAME ...] [--algorithms ALGORITHM ...] [--folder suite_learners] [--no-keep]

A part is one learner at one point of a scenario: 5 training seeds with the scenario's budget of decisions, one after
another on one core, then 20 held-out episodes. Ctrl-C saves what is done; the same command continues. Finished parts
are copied to `suite/results`, with their policies, and the checksums of the suite are written again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from offload_rllib.cluster.connection import ClusterError, connect
from offload_rllib.commands.terminal import say_error
from offload_rllib.config import ConfigError, PolicyConfig, load_policy_config
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.suite.results import REFERENCES, RESULT, read_result, write_result
from offload_rllib.suite.scenarios import EPISODES, TRAINING_SEEDS, Place, places
from offload_rllib.suite.scorecard import new_result, play
from offload_rllib.training.train import TrainingError, quieten, train
from scripts.results.study import in_one_process
from scripts.write_suite import SUITE, write_checksums

ALGORITHMS = ("ppo_auto", "ppo_from_rule", "ppo_hindsight", "ppo", "a2c", "ddqn")


def part_name(place: Place, algorithm: str) -> str:
    """Return the name of a part's folder: `ppo-fifo-0.6` of QUEUE-14/fifo-0.6."""
    return f"{algorithm}-{place.point.name}"


def settings(place: Place, algorithm: str, seed: int) -> PolicyConfig:
    """Return how one training seed is trained: as the preset says, with the scenario's budget, in one process."""
    budget = f"training.env_steps={place.scenario.env_steps}"
    return load_policy_config(algorithm, [*in_one_process(algorithm), f"training.seed={seed}", budget])


def train_part(place: Place, algorithm: str, folder: Path, console: Console) -> list[Path] | None:
    """Train what is missing of a part.

    Args:
        place: the point.
        algorithm: a preset of `policies/`.
        folder: of the part.
        console: for progress.

    Returns:
        The run folders of all training seeds; None after an interruption.

    Raises:
        ConfigError: a run was begun with other settings.
        TrainingError: a training failed.
    """
    paths = [folder / "runs" / str(seed) for seed in range(TRAINING_SEEDS)]
    environment = place.environment()
    for seed, path in enumerate(paths):
        policy = settings(place, algorithm, seed)
        if path.is_dir():
            run = RunFolder.open(path)
            if (run.environment, run.policy_config) != (environment, policy):
                raise ConfigError(f"{path}: begun with other settings than {place.name} has now; remove it")
            if run.state != "finished" and not run.checkpoints():
                run.remove()
        if not path.is_dir():
            RunFolder.create(str(path), environment, policy, "", environment_name=place.name)
        run = RunFolder.open(path)
        if run.state == "finished":
            continue
        console.print(f"{place.name}: {algorithm}, training seed {seed}", highlight=False)
        if not train(run, console, resume=bool(run.checkpoints())):
            return None
    return paths


def play_part(place: Place, algorithm: str, runs: list[Path], folder: Path, console: Console) -> None:
    """Let the training seeds of a part play; write `result.json` and their policies into a folder."""
    named = f"{algorithm}={','.join(map(str, runs))}"
    command = f"python -m scripts.suite_learners {place.name} --algorithms {algorithm}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / RESULT).is_file():
        write_result(new_result([place.name], [named], command=command, episodes=EPISODES, seed=0), folder / RESULT)
    with Progress(console=console, transient=True) as progress:
        for _ in play(read_result(folder), folder, progress):
            pass


def keep(place: Place, part: str, result: Path) -> Path:
    """Copy a result to the references of the suite; return where it is."""
    there = SUITE / REFERENCES / place.folder.name / part
    if there.exists():
        shutil.rmtree(there)
    shutil.copytree(result, there)
    write_checksums()
    return there


def do_part(place: Place, algorithm: str, folder: Path, console: Console, *, kept: bool) -> bool:
    """Train, play and keep a part; return whether it is done, False after an interruption."""
    part = part_name(place, algorithm)
    folder = folder / place.folder.name / part
    runs = train_part(place, algorithm, folder, console)
    if runs is None:
        return False
    play_part(place, algorithm, runs, folder / "result", console)
    where = f"; kept in {keep(place, part, folder / 'result')}" if kept else ""
    console.print(f"{place.name}: {algorithm} is done{where}", highlight=False)
    return True


def main() -> int:
    """Train, play and keep; return the exit code."""
    parser = argparse.ArgumentParser(
        "python -m scripts.suite_learners", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios or points; all by default")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS[:1])
    parser.add_argument("--folder", type=Path, default=Path("suite_learners"), help="where the runs are kept")
    parser.add_argument("--no-keep", action="store_true", help="leave suite/results as it is")
    arguments = parser.parse_args()
    console = Console()
    try:
        chosen = places(arguments.names)
        quieten()
        with connect():  # one Ray for all trainings
            for place in chosen:
                for algorithm in arguments.algorithms:
                    if not do_part(place, algorithm, arguments.folder, console, kept=not arguments.no_keep):
                        console.print("interrupted; the same command continues")
                        return 130
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues")
        return 130
    except (ConfigError, ClusterError, TrainingError) as error:
        say_error(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
