"""Many trainings, as many at a time as the cluster has CPUs for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayTaskError
from rich.console import Console

from offload_rllib.cluster.connection import Cluster, found_or_local
from offload_rllib.cluster.placement import TRAINER_CPUS, cpus_per_runner
from offload_rllib.config import ConfigError, PolicyConfig
from offload_rllib.envs.vector import compile_kernels
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.scenario import build_scenario
from offload_rllib.training.interruption import stopped_by
from offload_rllib.training.train import TrainingError, train
from offload_rllib.training.warm_start import keep_source

# A file in the folder of a run that asks its training to end.
STOP = "stop"


def needed_cpus(policy: PolicyConfig, cluster: Cluster) -> float:
    """Return the CPUs that a training reserves."""
    training = policy.training
    share = training.cpus_per_runner or cpus_per_runner(policy.processes, cluster.cpus_by_node)
    sleeps = training.runners or training.learners > 1
    return policy.processes * share + (TRAINER_CPUS if sleeps else 1.0)


def at_once(policies: Sequence[PolicyConfig], cluster: Cluster) -> int:
    """Return how many trainings of such policies have room on a cluster at the same time; at least 1."""
    most = int(cluster.cpus / max(needed_cpus(policy, cluster) for policy in policies) + 1e-9)
    gpus = max(policy.training.gpus for policy in policies)
    return max(1, min(most, int(cluster.gpus / gpus + 1e-9)) if gpus else most)


def train_all(runs: Sequence[RunFolder], console: Console) -> bool:
    """Train runs, or resume them: in parallel where Ray has the CPUs, otherwise one after another.

    Args:
        runs: none of them finished.
        console: where is said what is done.

    Returns:
        Whether all are finished; False after an interruption, with all that was reported saved.

    Raises:
        TrainingError: one of them failed; those in parallel with it are ended, and save what they reported.
    """
    if not runs:
        return True
    for run in runs:
        if run.policy_config.training.start_from is not None:
            keep_source(run)  # all from the same weights, though the source may change meanwhile
    places = min(len(runs), at_once([run.policy_config for run in runs], found_or_local()))
    if places > 1:
        return _side_by_side(runs, places, console)
    for number, run in enumerate(runs, 1):
        console.print(f"training {number} of {len(runs)}: {run.name}", highlight=False)
        if not train(run, console, resume=bool(run.checkpoints())):
            return False
    return True


@ray.remote(num_cpus=0, max_retries=0)
def _train(path: str, trust: bool) -> bool:
    run = RunFolder.open(path, trust=trust)
    with stopped_by(run.path / STOP):
        return train(run, Console(quiet=True), resume=bool(run.checkpoints()))


def _side_by_side(runs: Sequence[RunFolder], places: int, console: Console) -> bool:
    with console.status("loading the simulator's kernels (a new installation compiles them, for about a minute)"):
        compile_kernels(
            build_scenario(runs[0].environment)
        )  # once, before every training would compile them for itself
    waiting, working, finished = list(runs), {}, 0
    for run in runs:
        (run.path / STOP).unlink(missing_ok=True)  # of a driver that was killed
    with _sigterm_as_ctrl_c():
        try:
            while waiting or working:
                while waiting and len(working) < places:
                    run = waiting.pop(0)
                    console.print(f"training {run.name} ({places} at a time)", highlight=False)
                    working[_train.remote(str(run.path.resolve()), run.trust)] = run
                (done,), _ = ray.wait(list(working), num_returns=1)
                run = working.pop(done)
                if not _result(done):
                    return False
                finished += 1
                console.print(f"trained {run.name}: {finished} of {len(runs)} are finished", highlight=False)
        except KeyboardInterrupt:
            console.print("stopping when everything is saved; Ctrl-C again stops at once")
            return False
        finally:
            _stop(working)
    return True


def _result(task: Any) -> bool:
    try:
        return ray.get(task)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, TrainingError | ConfigError):
            raise type(cause)(str(cause)) from error
        raise TrainingError(f"a training failed: {' '.join(str(error).split())[-500:]}") from error


def _stop(working: dict[Any, RunFolder]) -> None:
    """Let trainings save what they reported and end; after Ctrl-C they are killed, and keep their last checkpoints."""
    for run in working.values():
        (run.path / STOP).touch()
    ending = list(working)
    try:
        while ending:
            _, ending = ray.wait(ending, num_returns=1)
    except KeyboardInterrupt:
        for task in ending:
            ray.cancel(task, force=True)
    for run in working.values():
        (run.path / STOP).unlink(missing_ok=True)
        if run.state == "training":
            run.record(state="interrupted")


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
