"""Clusters: options, room for processes, several learners, runners that are slow, hang or die, what a run tells."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
from helpers.environments import small_environment
from typer.testing import CliRunner

from offload_rllib.algorithms import sampling
from offload_rllib.algorithms.sampling import NoSamplesError, Sampler
from offload_rllib.cli import app
from offload_rllib.cluster import connection
from offload_rllib.cluster.connection import Cluster, ClusterError, Node, RayOptions
from offload_rllib.cluster.placement import TRAINER_CPUS, cpus_per_runner, places
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.config.loading import load_policy_config
from offload_rllib.policies.manifest import is_whole, write_manifest
from offload_rllib.runs.status import read_status
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import with_all_runners


def policy(name: str = "PPO", **training: Any) -> Any:
    content = {
        "algorithm": {"name": name, "batch_env_steps": 160, "minibatch_steps": 64},
        "network": {"hidden": [16, 16]},
        "training": {"runners": 2, "envs_per_runner": 4, "env_steps": 800} | training,
    }
    return load_policy_config(content)


@pytest.mark.parametrize("address", ["nonsense", "ray://", "head:", "ray://head:x"])
def test_an_address_that_is_none_is_refused_with_what_is_accepted(address: str) -> None:
    with pytest.raises(ConfigError, match=r"--address .*accepted: auto, local, host:port, or ray://host:port"):
        RayOptions(address)


def test_the_address_comes_from_the_option_then_the_environment_then_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert RayOptions().is_local
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert RayOptions().resolved == "10.0.0.1:6379"
    assert RayOptions("ray://head:10001").resolved == "ray://head:10001"
    assert RayOptions("local").is_local
    monkeypatch.setenv("RAY_ADDRESS", "rubbish")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS 'rubbish'"):
        RayOptions()


def test_training_from_outside_hands_the_cluster_a_command_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml
    from helpers.command_line import parse

    handed: list[Any] = []
    monkeypatch.setattr(
        "offload_rllib.cluster.remote_driver.run_there", lambda *arguments: handed.append(arguments) or 0
    )
    outside = ["--address", "ray://head:10001"]
    train = ["train", "ether_12", "ppo", "--set-policy", "training.seed=3", "--runners", "4", *outside]
    done = CliRunner().invoke(app, [*train, "--storage", "/shared/runs", "--name", "one", "--episodes", "7"])
    assert done.exit_code == 0, done.output
    _, files, arguments, _ = handed.pop()
    parsed = parse(arguments)
    assert (parsed["storage"], parsed["name"], parsed["episodes"]) == ("/shared/runs", "one", 7)
    sent = load_policy_config(yaml.safe_load(files[parsed["policy"]]))
    assert (sent.training.seed, parsed["runners"]) == (3, "4")
    assert "runners" not in sent.training.model_fields_set, "only the option chooses"
    assert load_environment(yaml.safe_load(files[parsed["env"]])) == load_environment("ether_12")
    assert CliRunner().invoke(app, ["train", "--resume", "/shared/runs/one", *outside]).exit_code == 0
    assert parse(handed.pop()[2])["resume"] == "/shared/runs/one"
    for wrong in (train, [*train, "--storage", "runs"], ["train", "--resume", "runs/one", *outside]):
        assert isinstance(CliRunner().invoke(app, wrong).exception, ConfigError)
    assert not handed


@pytest.mark.parametrize("nodes", [(2.0,), (1.0, 1.0, 1.0, 1.0), (4.0, 16.0, 1.0), (0.5, 3.0), (64.0,) * 5])
@pytest.mark.parametrize("runners", [1, 2, 3, 7])
def test_runners_fit_on_the_nodes_without_being_split(nodes: tuple[float, ...], runners: int) -> None:
    share = cpus_per_runner(runners, nodes)
    assert 0.1 <= share <= 1.0
    room = [nodes[0] - TRAINER_CPUS, *nodes[1:]]
    for _ in range(runners):  # first fit, as a person would place them
        fitting = next(i for i, cpus in enumerate(room) if cpus >= share - 1e-9)
        room[fitting] -= share
    assert places(share, nodes) >= runners


def test_too_many_runners_are_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"training.runners: 500 processes and the trainer do not fit on 4 CPUs"):
        cpus_per_runner(500, (2.0, 2.0))


def test_a_trainer_stays_with_the_driver_unless_storage_is_shared() -> None:
    head, worker = Node("a", "10.0.0.1", 4, 0, is_driver=True), Node("b", "10.0.0.2", 8, 0, is_driver=False)
    both = Cluster((worker, head))
    assert both.trainer_node(shared_storage=False) == "node:10.0.0.1"
    assert both.trainer_node(shared_storage=True) is None
    assert both.cpus_by_node == (4, 8)
    config = algorithm_config(
        load_environment(small_environment()), policy(), cpus=12, nodes=(4, 8), trainer_node="node:10.0.0.1"
    )
    assert config.algo_class is not None
    bundles = config.algo_class.default_resource_request(config).bundles
    assert [bundle.get("node:10.0.0.1", 0) > 0 for bundle in bundles] == [True, False, False]
    empty = Node("a", "10.0.0.1", 0, 0, is_driver=True)
    for nodes in ((worker, empty), (worker, Node("c", "10.0.0.3", 1, 0, is_driver=False))):
        with pytest.raises(ClusterError, match=r"give a folder or an address that all nodes see, with --storage"):
            Cluster(nodes).trainer_node(shared_storage=False)


def test_what_learners_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(160\) must be a multiple of learners x envs_per_runner \(12\)"):
        policy(learners=3)
    with pytest.raises(ConfigError, match=r"--runners all: each of 2 learners samples by itself; accepted: --learners"):
        with_all_runners(policy(learners=2))
    with pytest.raises(ConfigError, match=r"training.learners \(2\): DDQN learns in one process; accepted: 0 or 1"):
        load_policy_config({"algorithm": {"name": "DDQN"}, "training": {"learners": 2}})


@pytest.mark.usefixtures("ray_session")
def test_other_versions_on_a_node_are_named() -> None:
    node = connection.found().nodes[0]
    as_if_remote = Cluster((Node(node.node_id, node.address, node.cpus, 0, is_driver=False),))
    connection.compare_versions(as_if_remote)
    here = connection.versions() | {"torch": "0.1", "sources": "abc"}
    with pytest.raises(ClusterError) as error:
        connection.compare_versions(as_if_remote, ours=here)
    assert f"node {node.address}: torch {connection.versions()['torch']}, here 0.1" in str(error.value)
    assert "sources of offload-rllib" in str(error.value)
    assert "--ship-code" in str(error.value)


class FakeManager:
    """Runners that answer, are silent, or fail, as a list of what each does says."""

    def __init__(self, *deeds: str) -> None:
        self.deeds = dict(enumerate(deeds, 1))
        self.healthy = dict.fromkeys(self.deeds, True)
        self._actors = self.deeds
        self.asked: list[tuple[str, int]] = []

    def actor_ids(self) -> list[int]:
        return list(self.deeds)

    def healthy_actor_ids(self) -> list[int]:
        return [i for i, healthy in self.healthy.items() if healthy]

    def set_actor_state(self, actor_id: int, *, healthy: bool) -> None:
        self.healthy[actor_id] = healthy

    def foreach_actor_async(self, _function: Any, *, tag: str, remote_actor_ids: list[int]) -> None:
        self.asked += [(tag, i) for i in remote_actor_ids]

    def fetch_ready_async_reqs(self, *, tags: list[str], timeout_seconds: float) -> list[Any]:
        assert timeout_seconds < 1
        ready = [(tag, i) for tag, i in self.asked if tag in tags and self.deeds[i] != "silent"]
        self.asked = [request for request in self.asked if request not in ready]
        results = []
        for _, i in ready:
            failed = self.deeds[i] == "dies"
            self.healthy[i] = not failed
            value = RuntimeError("node is gone") if failed else ([f"sample of {i}"], {"num_env_steps_sampled": 10})
            results.append(SimpleNamespace(actor_id=i, ok=not failed, get=lambda value=value: value))
        return results


def group_of(manager: FakeManager) -> Any:
    return SimpleNamespace(
        _worker_manager=manager,
        num_remote_workers=lambda: len(manager.deeds),
        healthy_env_runner_ids=manager.healthy_actor_ids,
    )


def test_slow_and_lost_runners_are_named_and_the_others_go_on() -> None:
    manager = FakeManager("answers", "silent", "dies")
    sampler = Sampler(timeout_s=0.01)
    gathered = sampler.sample(group_of(manager), 20, lambda: None)
    assert gathered.samples == ["sample of 1", "sample of 1"]
    assert gathered.env_steps == 20
    assert (sampler.late, sampler.lost) == ([2], [3])
    notices = sampler.take_notices()
    assert any("runner 2: no samples within 0.01 s" in notice for notice in notices)
    assert any("runner 3: lost (node is gone)" in notice for notice in notices)
    manager.deeds[2] = "answers"
    assert sampler.sample(group_of(manager), 10, lambda: None).samples == ["sample of 1", "sample of 2"]
    assert "runner 2: answers again" in sampler.take_notices()
    manager.healthy[3], manager.deeds[3] = True, "answers"
    sampler.restored([3])
    assert sampler.restarts == 1
    assert len(sampler.sample(group_of(manager), 30, lambda: None).samples) == 3


def test_one_attempt_without_samples_is_a_notice_and_only_repeated_ones_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampling, "HANGING_TIMEOUTS", 1000)
    manager = FakeManager("silent", "silent")
    sampler = Sampler(timeout_s=0.01, attempts=3)
    restores = []

    def wake() -> None:
        restores.append(1)
        manager.deeds[1] = "answers"

    assert sampler.sample(group_of(manager), 10, wake).samples == ["sample of 1"]
    assert any("attempt 1 of 3" in notice for notice in sampler.take_notices())
    asleep = FakeManager("silent", "silent")
    with pytest.raises(NoSamplesError, match=r"within 0.01 s: runners 1, 2 late, 3 times in a row"):
        Sampler(timeout_s=0.01, attempts=3).sample(group_of(asleep), 10, lambda: None)


def test_waiting_for_those_who_are_late_is_not_a_failure_if_they_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "HANGING_TIMEOUTS", 1000)
    monkeypatch.setattr(sampling, "LOOK_AGAIN_S", 0.01)
    manager = FakeManager("silent", "silent")
    sampler = Sampler(timeout_s=0.2, attempts=2)
    restores = []

    def restore() -> None:
        restores.append(1)
        if len(restores) == 3:
            manager.deeds[1] = "answers"

    manager.fetch_ready_async_reqs = _slowly(manager.fetch_ready_async_reqs, 0.2)
    assert sampler.sample(group_of(manager), 10, restore).samples == ["sample of 1"]
    notices = sampler.take_notices()
    assert sum("attempt" in notice for notice in notices) == 1, notices


def _slowly(fetch: Any, timeout_s: float) -> Any:
    """Return what takes as long as it is allowed to, as it does where nobody answers."""

    def fetched(*, tags: list[str], timeout_seconds: float) -> list[Any]:
        if timeout_seconds >= timeout_s:
            time.sleep(timeout_seconds)
        return fetch(tags=tags, timeout_seconds=timeout_seconds)

    return fetched


def test_a_runner_that_hangs_is_ended_to_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = []
    monkeypatch.setattr("ray.kill", lambda actor, no_restart: killed.append((actor, no_restart)))
    manager = FakeManager("answers", "silent")
    sampler = Sampler(timeout_s=0.01)
    sampler.sample(group_of(manager), 10, lambda: None)
    assert (sampler.late, killed) == ([2], [])
    time.sleep(0.05)
    sampler.sample(group_of(manager), 10, lambda: None)
    assert (sampler.late, sampler.lost, killed) == ([], [2], [("silent", False)])
    assert "runner 2: hangs; ended, to be started again" in sampler.take_notices()


@pytest.mark.usefixtures("ray_session")
def test_a_runner_that_is_killed_is_restarted_and_counters_stay_exact() -> None:
    import ray

    config = algorithm_config(load_environment(small_environment()), policy(), cpus=2)
    algorithm = config.build_algo()
    try:
        first = algorithm.train()
        assert first["runners"] == {"all": 2, "healthy": 2, "late": 0, "restarts": 0}
        group: Any = algorithm.env_runner_group
        ray.kill(group._worker_manager._actors[1], no_restart=False)
        counted, restarts, notices = [160], 0, ""
        deadline = time.monotonic() + 240
        while restarts == 0:
            assert time.monotonic() < deadline, notices
            result = algorithm.train()
            sampled = result["env_runners"]
            counted.append(counted[-1] + int(sampled["num_env_steps_sampled"]))
            assert sampled["num_env_steps_sampled_lifetime"] == counted[-1]
            restarts, notices = result["runners"]["restarts"], notices + result["notices"]
        assert "runner 1: lost" in notices
        assert "runner 1: back at work" in notices
    finally:
        algorithm.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("sharing", "critic", "learner", "exchange"),
    [
        ("shared", "local", "fused", "gradients"),
        ("per_device", "local", "fused", "weights"),
        ("per_device", "central", "torch", "gradients"),
    ],
)
def test_two_learners_learn_as_one(tmp_path: Path, sharing: str, critic: str, learner: str, exchange: str) -> None:
    content = policy(learners=2).model_dump(mode="json", by_alias=True) | {"sharing": sharing}
    content["algorithm"] |= {"critic": critic, "learner": learner, "exchange": exchange}
    two, environment = load_policy_config(content), load_environment(small_environment())
    algorithm = algorithm_config(environment, two, cpus=2).build_algo()
    try:
        algorithm.train()
        result = algorithm.train()
        assert result["learners"]["__all_modules__"]["num_env_steps_trained_lifetime"] == 320
        assert result["timesteps_total"] == 320
        assert (result["runners"]["all"], result["runners"]["healthy"]) == (2, 2)
        learners: Any = algorithm.learner_group
        states = [answer.get() for answer in learners.foreach_learner(lambda learner: learner.get_state())]
        written_out = [answer.get() for answer in learners.foreach_learner(lambda learner: bool(learner._fused))]
        assert written_out == [learner == "fused"] * 2
        first, second = (state["rl_module"] for state in states)
        for module_id, module in first.items():
            for key, value in module.items():
                assert (value == second[module_id][key]).all(), "both learners have the same weights"
        acting: Any = algorithm.get_module(next(iter(first)))
        for key, value in acting.state_dict().items():
            assert np.array_equal(value, first[next(iter(first))][key]), "the trainer acts as they do"
        algorithm.save(str(tmp_path))
    finally:
        algorithm.stop()
    again = algorithm_config(environment, two, cpus=2).build_algo()
    try:
        again.restore(str(tmp_path))
        restored: Any = again.learner_group.get_state()
        for module_id, module in first.items():
            for key, value in module.items():
                assert np.array_equal(value, restored["learner"]["rl_module"][module_id][key])
        assert again.train()["timesteps_total"] == 480
    finally:
        again.stop()
    repeated = algorithm_config(environment, two, cpus=2).build_algo()
    try:
        for _ in range(2):
            repeated.train()
        weights: Any = repeated.learner_group.get_weights()
    finally:
        repeated.stop()
    for module_id, module in first.items():
        for key, value in module.items():
            assert np.array_equal(value, weights[module_id][key]), "the same seed gives the same weights"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DDQN"])
def test_a_learner_in_a_process_of_its_own_learns_as_the_trainer_does(algorithm: str) -> None:
    content = policy().model_dump(mode="json", by_alias=True)
    sizes = {"learning_starts": 10, "batch_transitions": 16} if algorithm == "DDQN" else {"minibatch_steps": 64}
    content["algorithm"] = {"name": algorithm, "batch_env_steps": 160, **sizes}
    environment = load_environment(small_environment())
    weights = []
    for learners in (0, 1):
        content["training"]["learners"] = learners
        trained: Any = algorithm_config(environment, load_policy_config(content), cpus=2).build_algo()
        try:
            trained.train()
            weights.append(next(iter(trained.learner_group.get_weights().values())))
        finally:
            trained.stop()
    for key, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][key], err_msg=key)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_an_address_where_nobody_listens_is_an_error_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(ClusterError, match=rf"^{address}: no Ray cluster can be reached there \(Connection refused\)"),
        connection.connect(RayOptions(address=address)),
    ):
        pass


def test_a_checkpoint_that_lacks_a_part_of_a_file_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "weights").write_bytes(b"12345")
    write_manifest(tmp_path, {"training_iteration": 3, "nested": {}, "time_total_s": 1.5, "nan": float("nan")})
    assert is_whole(tmp_path)
    assert json.loads((tmp_path / "contents.json").read_text())["progress"] == {
        "training_iteration": 3,
        "time_total_s": 1.5,
    }
    (tmp_path / "policy" / "weights").write_bytes(b"123")
    assert not is_whole(tmp_path)
    shutil.rmtree(tmp_path / "policy")
    assert not is_whole(tmp_path)


def test_status_says_whether_a_run_is_well_silent_or_gone(tmp_path: Path) -> None:
    import socket
    from datetime import UTC, datetime

    (tmp_path / "run.json").write_text('{"state": "training"}')
    assert read_status(tmp_path)["health"] == "no result yet"
    told = {
        "time": datetime.now(UTC).isoformat(), "host": socket.gethostname(), "pid": os.getpid(), "iteration": 3,
        "iteration_seconds": 1.5, "env_steps": 480, "env_steps_wanted": 960, "env_steps_per_second": 320.0,
        "figures": {"score_mean_s": 1.25, "dropped_share": None}, "runners": {"all": 2, "healthy": 2},
        "notices": ["12:00 runner 1: lost"], "checkpoint": {"env_steps": 320, "time": "12:00"},
    }  # fmt: skip

    def health(**changes: Any) -> str:
        (tmp_path / "status.json").write_text(json.dumps(told | changes))
        return read_status(tmp_path)["health"]

    assert health() == "well"
    assert health(runners={"all": 4, "healthy": 3}) == "works with 3 of 4 runners"
    assert health(time="2020-01-01T00:00:00+00:00").startswith("silent for")
    assert health(pid=2**22 + 1).startswith("its process is gone; continue: offload-rllib train --resume")
    health()
    shown = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert "480 of 960 env steps (50%)" in shown.output
    assert "runner 1: lost" in shown.output
    assert json.loads(CliRunner().invoke(app, ["status", str(tmp_path), "--json"]).output)["iteration"] == 3
    with pytest.raises(ConfigError, match=r"not a run folder"):
        read_status(tmp_path / "none")
