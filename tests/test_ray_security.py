"""What Ray is told for safety, and what a command line leaves to a policy file: small promises of clusters."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray._private import worker

from offload_rllib.cluster import connection
from offload_rllib.cluster.connection import ClusterError, RayOptions, connect
from offload_rllib.cluster.ray_settings import MESSAGES, messages_to_log
from offload_rllib.commands.train import _chooses_runners
from offload_rllib.config.policy import Training
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.training.status import RunWatch


def test_a_policy_file_of_a_persons_own_chooses_the_runners_and_a_preset_does_not(tmp_path: Path) -> None:
    content = {"algorithm": {"name": "PPO"}}
    (tmp_path / "silent.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content | {"training": {"runners": 2}}))
    assert not _chooses_runners("ppo", [])
    assert not _chooses_runners(str(tmp_path / "silent.yaml"), [])
    assert _chooses_runners(str(tmp_path / "own.yaml"), [])
    assert _chooses_runners("ppo", ["training.runners=3"])


def test_a_ray_of_its_own_listens_on_loopback_only_and_its_token_is_private(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    (tmp_path / ".ray" / "auth_token").chmod(0o644)
    program = """
import psutil, ray
from offload_rllib.cluster.connection import RayOptions, connect
with connect(RayOptions("local", dashboard=True)):
    ray.get(ray.remote(lambda: 1).remote())
    here = psutil.Process()
    for process in (here, *here.children(recursive=True)):
        for each in process.net_connections("inet"):
            if each.status == psutil.CONN_LISTEN:
                print("listens", each.laddr.ip)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"HOME": str(tmp_path), "RAY_raylet_start_wait_time_s": "180"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    addresses = re.findall(r"^listens (.*)$", done.stdout, re.MULTILINE)
    assert len(addresses) > 4
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


def test_a_token_that_is_there_is_shown_to_a_cluster(
    ray_session: None,  # noqa: ARG001 - Ray has read its own mode before
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr("offload_rllib.cluster.connection._knock", lambda *_: None)
    monkeypatch.setattr("offload_rllib.cluster.connection.ray.is_initialized", lambda: False)
    seen: list[str | None] = []

    def refuse(**_: Any) -> None:
        seen.append(os.environ.get("RAY_AUTH_MODE"))
        raise ConnectionError("no")

    monkeypatch.setattr("offload_rllib.cluster.connection.ray.init", refuse)
    # The real one would change how every later test of this process stands to clusters.
    settings = SimpleNamespace(initialize=lambda _: None)
    monkeypatch.setattr("ray._private.authentication.authentication_token_setup.Config", settings)
    with pytest.raises(ClusterError, match="and the token in"), connect(RayOptions("head:6379")):
        pass
    assert seen == ["token"]
    # Ray keeps the mode that it has read first, so that no attempt is made with this one.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "none is sent, for RAY_AUTH_MODE is disabled" in connection._about_token()


def test_what_ray_tells_goes_to_the_log_of_a_run_or_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(MESSAGES), "handlers", [])  # no run is in work
    told = {"lines": ["A worker died. To troubleshoot:\n Lease ID: 01"], "pid": "raylet", "is_err": False}
    with messages_to_log():
        worker.print_to_stdstream(told, ignore_prefix=False)
        assert capsys.readouterr() == ("", "Ray: A worker died\n")
        run = RunFolder(tmp_path)
        with RunWatch(run, Training()):
            worker.print_to_stdstream(told, ignore_prefix=False)
        assert capsys.readouterr() == ("", "")
        assert "Ray: A worker died. To troubleshoot: Lease ID: 01" in (tmp_path / "logs" / "train.log").read_text()
        worker.print_to_stdstream(told, ignore_prefix=False)
        assert capsys.readouterr().err == "Ray: A worker died\n"
