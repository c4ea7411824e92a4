"""A folder that somebody else made is read without harm: clear errors, no waiting, no code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.environments import make_env, small_environment
from helpers.policies import kept
from safetensors.torch import load_file, save_file

from offload_rllib.compare.run import ComparisonFolder
from offload_rllib.config import ConfigError, load_policy_config
from offload_rllib.config.files import read_bytes
from offload_rllib.evaluation.results import load_comparison
from offload_rllib.policies.manifest import is_whole
from offload_rllib.policies.saved import load_saved_policy, packed
from offload_rllib.runs.status import read_status
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.sweep.folder import SweepFolder


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SPOILED: dict[str, Callable[[Path], Any]] = {
    "nested": lambda path: path.write_text("[" * 100_000),
    "a list": lambda path: path.write_text("[1]"),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe{}"),
    "cut off": lambda path: path.write_text('{"format": '),
    "a pipe": _fifo,
}
# A file of JSON, and what reads it: as every kind of folder is opened.
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "policy": ("policy.json", load_saved_policy),
    "packed policy": ("policy.json", packed),
    "run": ("run.json", lambda folder: RunFolder(folder).state),
    "status": ("run.json", read_status),
    "sweep": ("sweep.json", lambda folder: SweepFolder(folder).state),
    "comparison": ("state.json", lambda folder: ComparisonFolder(folder).state),
    "finished comparison": ("comparison.json", load_comparison),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("spoiled", SPOILED)
@pytest.mark.parametrize("reader", READERS)
def test_a_spoiled_file_of_a_folder_is_named(tmp_path: Path, reader: str, spoiled: str) -> None:
    name, read = READERS[reader]
    for other in ("episodes.parquet", "timings.csv", name):
        (tmp_path / other).write_text("{}")
    SPOILED[spoiled](tmp_path / name)
    with pytest.raises(ConfigError, match=rf"{name}|a comparison"):
        read(tmp_path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_checkpoint_whose_list_of_files_is_spoiled_is_not_whole(tmp_path: Path, spoiled: str) -> None:
    (tmp_path / "contents.json").write_text("{}")
    SPOILED[spoiled](tmp_path / "contents.json")
    assert not is_whole(tmp_path)


def test_a_file_beyond_any_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1001)
    assert len(read_bytes(tmp_path / "large", most_bytes=1001)) == 1001
    with pytest.raises(ConfigError, match=r"large: 1,001 bytes; at most 1,000 are read"):
        read_bytes(tmp_path / "large", most_bytes=1000)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    kept(tmp_path, make_env(small_environment()))
    weights = load_file(tmp_path / "shared.safetensors")
    key = min(weights)
    weights[key].view(-1)[0] = value
    save_file(weights, tmp_path / "shared.safetensors")
    with pytest.raises(ConfigError, match=rf"shared.safetensors: {key}: must be finite numbers of 32 bits"):
        load_saved_policy(tmp_path)


def test_weights_of_another_type_are_refused(tmp_path: Path) -> None:
    kept(tmp_path, make_env(small_environment()))
    weights = load_file(tmp_path / "shared.safetensors")
    save_file({key: value.to(torch.float64) for key, value in weights.items()}, tmp_path / "shared.safetensors")
    with pytest.raises(ConfigError, match=r"must be finite numbers of 32 bits"):
        load_saved_policy(tmp_path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation_size": 2**70}, "observation_size"),
        ({"actions": 2**70}, "actions"),
        ({"network": {"hidden": [2**70]}}, r"network.hidden.0"),
        ({"network": {"hidden": [64] * 200_000}}, r"network.hidden"),
        ({"rows": [2**70, 1, 1], "network": {"kind": "pointer"}}, r"rows.0"),
        ({"rows": [3, 5, 5], "network": {"kind": "pointer"}}, r"do not make up the observation"),
        ({"rows": [11, 7, 12, 40, 8]}, r"no rows that end with 40 numbers"),
        ({"rows": [11, 7, 12, 4]}, r"no rows that end with 4 numbers, of which 0"),
        ({"rows": [12, 7, 12, 4, 2]}, r"no rows that end with 4 numbers, of which 2"),
        # Allowed, and more memory than any machine has: the weights' sizes are compared before there are any.
        ({"observation_size": 2**24, "network": {"hidden": [2**16] * 64}}, r"shared.safetensors: not the weights"),
    ],
)
def test_sizes_beyond_all_bounds_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    kept(tmp_path, make_env(small_environment()))
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        load_saved_policy(tmp_path)


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_weights_is_not_waited_for(tmp_path: Path) -> None:
    kept(tmp_path, make_env(small_environment()))
    _fifo(tmp_path / "shared.safetensors")
    with pytest.raises(ConfigError, match=r"shared.safetensors: cannot be read: not a regular file"):
        load_saved_policy(tmp_path)


@pytest.mark.parametrize("hidden", [[2**70], [64] * 200])
def test_networks_of_a_policy_file_have_bounds(hidden: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"network.hidden"):
        load_policy_config({"algorithm": {"name": "PPO"}, "network": {"hidden": hidden}})


@pytest.mark.parametrize(
    "told", [{}, {"pid": 2**70}, {"pid": "x"}, {"time": "yesterday"}, {"figures": [1]}, {"checkpoint": {"a": 1}}]
)
def test_a_status_that_is_none_is_named_by_its_key(tmp_path: Path, told: dict[str, Any]) -> None:
    (tmp_path / "run.json").write_text('{"state": "training"}')
    whole = {
        "time": "2026-01-01T00:00:00+00:00", "host": "h", "pid": 1, "iteration": 3, "iteration_seconds": 1.5,
        "env_steps": 480, "env_steps_wanted": 960, "env_steps_per_second": None, "figures": {"score_mean_s": None},
        "runners": {"all": 2, "healthy": 2}, "notices": [], "checkpoint": {},
    }  # fmt: skip
    path = tmp_path / "status.json"
    path.write_text(json.dumps(whole))
    assert read_status(tmp_path)["health"].startswith("silent for")
    path.write_text(json.dumps(whole | told if told else {}))
    with pytest.raises(ConfigError, match=rf"status.json: not the status of a run: {next(iter(told), 'time')}"):
        read_status(tmp_path)
