"""What would not end, not fit into memory, or not keep up is said before an episode is played, and can be stopped."""

from __future__ import annotations

import os
import signal
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.environments import make_env, small_environment
from rich.console import Console

from offload_rllib.commands.evaluate import play
from offload_rllib.commands.train import Asked, _new_run
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.vector import held_out_keys, vector_env
from offload_rllib.reporting.topology import print_numbers
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.events import loop
from offload_rllib.training import train as training_module
from offload_rllib.training.rllib_config import built

BURSTY = {"kind": "bursty", "states": [{"level": 1, "mean_s": 1e-12}, {"level": 2, "mean_s": 1e-12}]}
RATE = "workload.load={tasks_per_second_per_client: 1e12}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workload.load={rho: 1e9}"], r"workload: about .* events in an episode \(.* tasks\); at most 1e\+10"),
        ([RATE], r"workload: about 4e\+14 events in an episode \(8e\+13 tasks\)"),
        (["workload.load={rho: {per_episode: [0.1, 1e9]}}"], r"workload: about .* events"),
        (["topology.nodes.1.instructions_per_second=1e18", "workload.load={rho: 0.8}"], r"workload: about .* events"),
        (
            ["information={interval_s: 1e-12}"],
            r"information.interval_s: 1e-12 is so short that about .* are on their way",
        ),
        (["failures={laws: [{time_to_failure_s: 1e-12, time_to_repair_s: 0}]}"], r"failures.laws.0: about .* events"),
        ([f"workload.arrivals={BURSTY}"], r"workload.arrivals.states: about .* events"),
        (["workload.arrivals={kind: uniform, slot_s: 1e-12}"], r"workload.arrivals.slot_s: about .* events"),
        (["workload.arrivals={kind: zigzag, period_s: 1e-12}"], r"workload.arrivals.period_s: about .* events"),
        (
            [RATE.replace("1e12", "375"), "workload.deadline_s=null", "horizon_s=2000000", "score.drop_s=2e6"],
            r"the tasks that gather in an episode need about .* GiB, and this machine has",
        ),
    ],
    ids=str,
)
def test_an_episode_that_would_not_end_or_not_fit_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(small_environment(), overrides))


def test_estimates_are_near_what_happens() -> None:
    env = make_env(small_environment())
    while not env.truncated.all():
        env.step(np.zeros_like(env.masks[..., 0], np.int32))
    cost = env.scenario.cost
    episode = env.state.episode[0]
    assert episode["tasks_made"] == pytest.approx(cost.tasks, rel=0.3)
    assert episode["events"] < cost.events < 10 * episode["events"]


def test_many_environments_whose_tasks_do_not_fit_together_are_refused() -> None:
    overrides = ["workload.load={rho: 100}", "workload.deadline_s=null", "horizon_s=100000", "score.drop_s=1e5"]
    assert vector_env(small_environment(), 1, overrides=overrides).num_envs == 1
    with pytest.raises(ConfigError, match=r"num_envs: 4000 environments .* need about .* GiB"):
        vector_env(small_environment(), 4000, overrides=overrides)


def test_tasks_that_gather_beyond_the_memory_end_the_episode_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    from offload_rllib.envs import batch

    env = make_env(small_environment(), 1)
    monkeypatch.setattr(batch, "physical_memory_bytes", lambda: 10_000)
    with pytest.raises(ConfigError, match=r"workload: .* unfinished tasks in an environment of 1, and more to come"):
        env._grow()


def notes(*overrides: str) -> str:
    """Return what `show` prints of an environment."""
    text = StringIO()
    print_numbers(build_scenario(load_environment(small_environment(), overrides)), Console(file=text, width=400))
    return text.getvalue()


def test_an_interval_that_cannot_keep_up_is_shown_with_the_figure() -> None:
    # Each client makes 1.2 tasks a second.
    slow = notes("decisions.interval_s=4", "workload.load.client_weights={a: 3, c: 1}")
    assert "decisions cannot keep up: 7.2 tasks reach 'a' between two of them (decisions.interval_s: 4)" in slow
    assert "of which it decides 1 (decisions.tasks_per_decision)" in slow
    assert "cannot keep up" not in notes("decisions={when: interval, interval_s: 4, tasks_per_decision: 8}")
    assert "cannot keep up" not in notes("decisions.interval_s=0.5")
    assert "cannot keep up" not in notes("decisions={when: interval, interval_s: 4, offer: newest}"), (
        "tasks are served meanwhile"
    )
    assert "0.6; 1" in notes("decisions.interval_s=0.5")


def test_what_is_shown_says_when_agents_decide() -> None:
    clocked, at_once = notes("decisions.interval_s=0.5"), notes("decisions={}")
    assert "every 0.5 s" in clocked
    assert "tasks between two decisions of the busiest node" in clocked
    assert "when a task arrives" in at_once
    assert "between two decisions" not in at_once


def test_train_says_so_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "check", lambda config, _: built(config))
    path = tmp_path / "slow.yaml"
    path.write_text(yaml.safe_dump(small_environment(decisions={"interval_s": 4})))
    asked = Asked(str(path), "ppo", [], [], str(tmp_path / "run"), None, episodes=2, held_out_seed=0, trust=False)
    _new_run(asked, take_all=False)
    assert "note: decisions cannot keep up: 4.8 tasks reach 'a'" in " ".join(capsys.readouterr().out.split())


def test_what_is_said_to_keep_up_or_not_does() -> None:
    held = {}
    for interval_s in (0.5, 1.0):
        environment = small_environment(horizon_s=400, decisions={"interval_s": interval_s})
        environment["workload"] |= {"deadline_s": None, "load": {"tasks_per_second_per_client": 1.2}}
        for node in environment["topology"]["nodes"]:
            node.pop("queue_capacity", None)
            node["instructions_per_second"] = 1e8
        env = make_env(environment)
        while not env.truncated.all():
            env.step(np.zeros_like(env.masks[..., 0], np.int32))
        held[interval_s] = env.state.node["held"][0].sum(), bool(env.scenario.notes)
    assert held[0.5][1] is False
    assert held[0.5][0] < 20
    assert held[1.0][1] is True
    assert held[1.0][0] > 80


def test_an_environment_without_tasks_says_so() -> None:
    assert "an episode has 4e-07 tasks on average: most have none" in notes(
        "workload.load={tasks_per_second_per_client: 5e-9}"
    )


def test_episodes_without_tasks_are_not_compared(tmp_path: Path) -> None:
    config = load_environment(small_environment(), ["workload.load={tasks_per_second_per_client: 5e-9}"])
    with pytest.raises(ConfigError, match=r"no task came in any of the 3 episodes, so there is nothing to compare"):
        play(config, ["local"], 3, 0, lambda write: write(tmp_path / "results"), label="title")
    assert not list(tmp_path.iterdir())


def overloaded(horizon_s: float) -> dict[str, Any]:
    """Return an environment with one long step, in which much happens."""
    environment = small_environment(horizon_s=horizon_s, decisions={"interval_s": horizon_s})
    environment["workload"]["load"] = {"tasks_per_second_per_client": 400.0}
    return environment


def test_a_step_in_parts_is_the_same_step() -> None:
    env = make_env(overloaded(800), 2)
    env.step(np.zeros_like(env.masks[..., 0], np.int32))
    made = env.state.episode["events"]
    assert (made > 2 * loop.EVENTS_PER_CALL).all(), "a kernel returned several times"
    alone = vector_env(overloaded(800), 1)
    alone.reset(held_out_keys(0, 2)[1:])
    alone.step(np.zeros_like(alone.masks[..., 0], np.int32))
    assert alone.state.episode[0] == env.state.episode[1]
    np.testing.assert_equal(alone.episode_metrics(0), env.episode_metrics(1))


def test_a_long_step_can_be_interrupted() -> None:
    env = make_env(overloaded(4000), 32)
    actions = np.zeros_like(env.masks[..., 0], np.int32)
    # A process that was started in the background ignores the signal unless it says otherwise.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            env.step(actions)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (env.state.episode["step"] == 0).any(), "not all environments had come to the end of the step"
