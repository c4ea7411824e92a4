"""`check` finds what is wrong with a user's environment or policy: each check passes on sound files, and can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.environments import at_once, make_env, recorded, small_environment
from helpers.policies import kept, policy_config
from typer.testing import CliRunner

import offload_rllib
from offload_rllib.checking import environment as environment_module
from offload_rllib.checking import faces
from offload_rllib.checking.environment import (
    Subject,
    decisions,
    load,
    loads,
    masks,
    networks,
    observations,
    other_seed,
    rewards,
    same_seed,
)
from offload_rllib.checking.episodes import begin
from offload_rllib.checking.policy import valid_actions
from offload_rllib.checking.results import CheckFailed, CheckReport, Note, Outcome, run_checks
from offload_rllib.cli import app, main
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.scenario import build_scenario

CODE = """
import itertools

import numpy as np

from offload_rllib.scenario.network import Network, Node

calls = itertools.count()


def nan(view):
    return np.full(view.state.node["own_finished"].shape, np.nan)


def nothing(view):
    return np.zeros(view.state.node["own_finished"].shape)


def of_the_call(view):
    return np.full(view.state.node["own_finished"].shape, float(next(calls)))


def far_out(view):
    return 3.0 * view.observations


def infinite(view):
    return np.log(0.0 * view.observations)


def of_the_batch(view):
    return view.observations * len(view.observations)


def pair(core_speed):
    nodes = [
        Node(name, "device", (0.0, 0.0), cores=1, core_speed=core_speed, queue_capacity=6, client=name == "a")
        for name in "ab"
    ]
    return Network(tuple(nodes), ((0, 1),))


def blind(seed):
    return pair(2e6)


def fickle(seed):
    return pair(2e6 + next(calls))


def drawn(seed):
    return pair(1e6 + seed % 1000)
"""


@pytest.fixture(autouse=True)
def _code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put functions of a user into the working folder."""
    (tmp_path / "faulty.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty", raising=False)


def subject(**changes: Any) -> Subject:
    """Return an environment without a clock under check."""
    config = load_environment(at_once(**changes))
    return Subject(config, build_scenario(config), 0)


def line() -> dict[str, Any]:
    """Return the topology of a line of four: its ends have one neighbour, and so a masked action."""
    topology = at_once()["topology"]
    return topology | {"links": topology["links"][:3]}


def of_function(name: str, **changes: Any) -> Subject:
    topology = {"kind": "python", "function": f"faulty:{name}", **changes}
    return subject(topology=topology, **({"decisions": {"when": "arrival", "max_destinations": 1}} if changes else {}))


@pytest.mark.parametrize("environment", [small_environment(), at_once()], ids=["clocked", "arrival"])
def test_a_sound_environment_passes_every_check(environment: dict[str, Any]) -> None:
    report = offload_rllib.check(environment)
    failed = [result for result in report.results if result.outcome is Outcome.FAILED]
    assert report.passed, failed
    assert len(report.results) == 9 + len(faces.FACES)
    assert report.of("rewards").found.endswith("they sum to minus the response times and drop costs")
    assert report.of("masks").outcome is Outcome.PASSED
    assert report.of("observations").outcome is Outcome.PASSED


def test_networks_that_ignore_or_exceed_their_seed_are_found() -> None:
    assert networks(of_function("blind")) == "the same whenever it is built"
    assert networks(of_function("drawn", resample="episode")).startswith("one for each episode")
    with pytest.raises(CheckFailed, match=r"the networks of 3 episodes are the same"):
        networks(of_function("blind", resample="episode"))
    with pytest.raises(CheckFailed, match=r"two networks of the same seed differ"):
        networks(of_function("fickle"))


def test_episodes_that_do_not_follow_from_their_seed_are_found() -> None:
    assert same_seed(subject(horizon_s=10)) == "alone, again, and in a batch of 3"
    with pytest.raises(CheckFailed, match=r"an episode that is played again has other rewards$"):
        same_seed(subject(horizon_s=10, reward={"name": "faulty:of_the_call"}))
    with pytest.raises(CheckFailed, match=r"other observations when others are played beside it"):
        same_seed(subject(horizon_s=10, observe="faulty:of_the_batch"))


def test_episodes_that_are_all_the_same_are_found(tmp_path: Path) -> None:
    assert other_seed(subject(horizon_s=10)) == "the tasks of 3 episodes differ"
    recording = load_environment(recorded(tmp_path, 1, decisions={"when": "arrival"}))
    found = other_seed(Subject(recording, build_scenario(recording), 0))
    assert isinstance(found, Note)
    workload = at_once()["workload"] | {"load": {"tasks_per_second_per_client": 1e-9}}
    with pytest.raises(CheckFailed, match=r"of 3 episodes only 1 differ"):
        other_seed(subject(workload=workload))


@pytest.mark.parametrize("scope", ["own", "neighbourhood", "team"])
def test_rewards_are_compared_with_what_tasks_cost(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = {"name": "delay", "scope": scope, "scale": 0.3, "drop_penalty_s": 0.5}
    checked = subject(reward=reward, score={"drop_s": 70, "weights": {"type_0": 0.3}})
    assert rewards(checked).endswith("they sum to minus the response times and drop costs")
    cheap = environment_module._delay_costs
    monkeypatch.setattr(environment_module, "_delay_costs", lambda env: 0.999 * cheap(env))
    with pytest.raises(CheckFailed, match=r"the rewards of '[abcd]' sum to -.*; minus the response times .* is -"):
        rewards(checked)


def test_rewards_of_a_user_that_are_no_numbers_or_nothing_are_found() -> None:
    with pytest.raises(ConfigError, match=r"faulty:nan returned a number that is not finite"):
        rewards(subject(reward={"name": "faulty:nan"}))
    found = rewards(subject(reward={"name": "faulty:nothing"}))
    assert isinstance(found, Note)
    assert found.startswith("every reward of an episode is 0")
    both = subject(reward={"name": "faulty:nan"}, observe="faulty:infinite")
    with pytest.raises(ConfigError, match=r"^faulty:nan"):
        rewards(both)
    with pytest.raises(ConfigError, match=r"^faulty:infinite"):
        observations(both)


def test_observations_out_of_their_range_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = observations(subject(observe="faulty:far_out"))
    assert isinstance(found, Note)
    assert " of the numbers lie outside [-1, 1], most of them in function_" in found
    monkeypatch.setattr(ArrivalEnv, "observation_bounds", property(lambda _: (-1.0, 1.0)))
    with pytest.raises(CheckFailed, match=r"lie outside \[-1, 1\]"):
        observations(subject(observe="faulty:far_out"))


def test_masks_that_are_wrong_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def others(config: Any, keys: Any, **how: Any) -> Any:
        env = begin(config, keys, **how)
        step = env.step

        def wrong_step(actions: np.ndarray) -> bool:
            last_valid = env.masks.shape[-1] - 1 - env.masks[:, ::-1].argmax(-1)
            return step(np.where(env.masks[[0], actions] == 1, actions, last_valid))

        monkeypatch.setattr(env, "step", wrong_step)
        return env

    def without_any(config: Any, keys: Any, **how: Any) -> Any:
        env = begin(config, keys, **how)
        env.masks[:] = 0
        return env

    assert " masked actions acted as the first valid one" in masks(subject(topology=line()))
    monkeypatch.setattr(environment_module, "begin", others)
    with pytest.raises(CheckFailed, match="a masked action does not act as the first valid one"):
        masks(subject(topology=line()))
    monkeypatch.setattr(environment_module, "begin", without_any)
    with pytest.raises(CheckFailed, match="an agent has no valid action"):
        masks(subject())


def test_loads_that_leave_nothing_to_decide_are_noted() -> None:
    def at(rho: float, **changes: Any) -> str:
        workload = at_once()["workload"] | {"load": {"rho": rho}} | changes
        return load(subject(workload=workload))

    assert not isinstance(at(0.7), Note)
    assert "overloaded" in at(1.2)
    assert "lightly loaded" in at(0.1)
    assert "in time nowhere" in at(0.7, deadline_s={"uniform": [0.1, 3]})
    assert isinstance(at(1.2), Note)
    cloud = load_environment("cloud_ether_12")
    assert "the rest belongs in the cloud" in load(Subject(cloud, build_scenario(cloud), 0))


def test_decisions_that_cannot_keep_up_are_noted() -> None:
    def every(interval_s: float) -> str:
        config = load_environment(small_environment(decisions={"interval_s": interval_s}))
        return decisions(Subject(config, build_scenario(config), 0))

    assert "between two decisions; it decides up to 1" in every(0.5)
    assert isinstance(every(2.0), Note)
    assert "decisions cannot keep up" in every(2.0)
    assert decisions(subject()) == "every task is decided when it arrives"
    assert loads(subject()) == "4 nodes, 4 links, 4 agents"


@pytest.mark.parametrize("name", sorted(faces.FACES))
def test_faces_that_break_their_contract_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from offload_rllib.envs.rllib import OffloadMultiAgentEnv

    for kind in (faces.OffloadParallelEnv, faces.OffloadAECEnv, faces.OffloadGymEnv, OffloadMultiAgentEnv):
        monkeypatch.setattr(kind, "reset", lambda *_, **__: None)
    result = run_checks([(name, lambda: faces.FACES[name](load_environment(at_once())))])[0]
    assert (result.name, result.outcome) == (name, Outcome.FAILED)
    assert result.found


def test_a_fault_is_one_failed_row_and_the_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(at_once(horizon_s=10, reward={"name": "faulty:nan"})))
    done = CliRunner().invoke(app, ["check", str(path)])
    assert done.exit_code == 1
    row = next(line for line in done.output.splitlines() if "rewards" in line)
    assert "failed" in row
    assert "faulty:nan" in row
    path.write_text(yaml.safe_dump(at_once(reward={"name": "delay", "scales": 2})))
    with pytest.raises(ConfigError, match=r"mine.yaml: reward.scales: unknown key.*Did you mean 'scale'"):
        offload_rllib.check(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ether_21"], r"'ether_21' is neither a preset of envs/ or policies/.*Did you mean 'ether_31'"),
        (["none.yaml"], "none.yaml: no such file or folder"),
        (["ether_12", "--env", "ether_19"], "env: only a policy is checked in an environment"),
    ],
)
def test_what_cannot_be_checked_is_bad_input(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        offload_rllib.check(arguments[0], env=arguments[2] if len(arguments) > 1 else None)
    monkeypatch.setattr(sys, "argv", ["offload-rllib", "check", *arguments])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 2
    assert capsys.readouterr().err


def test_a_policys_file_is_checked_in_an_environment() -> None:
    report: CheckReport = offload_rllib.check(policy_config(env_steps=160_000), env=at_once())
    assert report.passed, report
    assert [result.outcome for result in report.results] == [Outcome.PASSED] * 4
    Path("ppo").mkdir()  # a preset's name has precedence
    few = offload_rllib.check("ppo", env=at_once(), policy_overrides=["training.env_steps=3200"])
    assert few.of("budget").outcome is Outcome.NOTE
    pointer = load_policy_config({"algorithm": {"name": "DDQN"}, "network": {"kind": "pointer", "hidden": [8]}})
    assert offload_rllib.check(pointer, env=at_once()).of("actions").outcome is Outcome.PASSED
    misfit = offload_rllib.check(pointer, env=at_once(observe="faulty:far_out"))
    assert misfit.of("environment").outcome is Outcome.FAILED
    assert "pointer reads one row per destination" in misfit.of("environment").found


def test_a_trained_policy_is_checked_without_ray(tmp_path: Path) -> None:
    kept(tmp_path / "policy", make_env(at_once()), environment="other")
    (tmp_path / "env.yaml").write_text(yaml.safe_dump(at_once()))
    program = (
        "import sys, offload_rllib\n"
        "report = offload_rllib.check('policy', env='env.yaml')\n"
        "assert report.passed and 'ray' not in sys.modules\n"
        "print(*(result.outcome for result in report.results))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == ["note", "passed", "passed"]
    other = offload_rllib.check(tmp_path / "policy", env="ether_12")
    assert not other.passed
    assert "the environment has" in other.of("environment").found


def test_policies_that_choose_what_is_masked_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = at_once(topology=line())
    policy = kept(tmp_path / "policy", make_env(environment))

    def last(*arrays: np.ndarray, **_: Any) -> np.ndarray:
        return np.full(arrays[-1].shape[:-1], arrays[-1].shape[-1] - 1)

    monkeypatch.setattr(type(policy), "__call__", last)
    with pytest.raises(CheckFailed, match="greedy: chose a masked action"):
        valid_actions(policy, load_environment(environment), 0)
