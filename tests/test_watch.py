"""What is kept of a run while it works, and that runners never play an episode twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.environments import small_environment
from helpers.sampling import make_runner, runner_config

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.policies.manifest import write_manifest
from offload_rllib.rollout.callbacks import OffloadCallback
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.training import status as status_module
from offload_rllib.training.status import RunWatch


def make_run(folder: Path, overrides: Sequence[str] = ()) -> RunFolder:
    policy = load_policy_config({"algorithm": {"name": "PPO"}}, overrides)
    return RunFolder.create(str(folder / "run"), load_environment(small_environment()), policy, "run")


def result(score: float | None, env_steps: int = 100, episodes: int = status_module.SCORE_EPISODES) -> dict[str, Any]:
    """Return what RLlib reports of an iteration; of one that ends no episode it reports no score, or not a number."""
    figures = {} if score is None else {"offload": {"score_mean_s": score}, "num_episodes": episodes}
    return {
        "env_runners": {"num_env_steps_sampled_lifetime": env_steps, **figures},
        "training_iteration": 1,
        "time_total_s": 2.0,
        "time_this_iter_s": 1.0,
    }


def offer(
    watch: RunWatch, folder: Path, score: float | None, mark: str, episodes: int = 20, share: float | None = None
) -> None:
    """Give an iteration and a checkpoint to the watch, as Tune does; `share` is the dropped one, bounded by 0.1."""
    bounds = {} if share is None else {"constraints": {"dropped_share": {"share": share, "at_most": 0.1}}}
    watch.on_trial_result(0, [], SimpleNamespace(local_path=None), result(score, episodes=episodes) | bounds)
    (folder / mark / "policy").mkdir(parents=True)
    (folder / mark / "policy" / "policy.json").write_text(mark)
    write_manifest(folder / mark, {})
    checkpoint = SimpleNamespace(path=mark, as_directory=lambda: nullcontext(str(folder / mark)))
    watch.on_checkpoint(0, [], SimpleNamespace(last_result=result(score)), checkpoint)


def test_the_policy_of_the_lowest_score_is_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    kept = run.path / "best" / "policy" / "policy.json"
    with RunWatch(run, run.policy_config.training) as watch:
        for mark, score, best in (("first", 9.0, "first"), ("worse", 9.5, "first"), ("better", 7.0, "better")):
            offer(watch, tmp_path, score, mark)
            assert kept.read_text() == best
        for mark, unknown in (("unknown", float("nan")), ("none", None)):
            offer(watch, tmp_path, unknown, mark)
        assert kept.read_text() == "better"
    assert json.loads((run.path / "best" / "best.json").read_text()) == {"score_mean_s": 7.0, "env_steps": 100}
    with RunWatch(run, run.policy_config.training) as resumed:
        offer(resumed, tmp_path, 8.0, "later")
        assert kept.read_text() == "better", "a resumed run remembers its best"
        offer(resumed, tmp_path, 6.0, "last")
        assert kept.read_text() == "last"


def test_a_policy_that_keeps_the_bounds_is_kept_before_one_that_scores_better(tmp_path: Path) -> None:
    bounds = ["algorithm.constraints=[{figure: dropped_share, at_most: 0.1}]"]
    run = make_run(tmp_path, bounds)
    kept = run.path / "best" / "policy" / "policy.json"

    def play(marks: tuple[tuple[str, float, float, str], ...]) -> None:
        with RunWatch(run, run.policy_config.training) as watch:
            for mark, share, score, best in marks:
                offer(watch, tmp_path, score, mark, episodes=20, share=share)
                assert kept.read_text() == best

    play((("far", 0.3, 5.0, "far"), ("near", 0.2, 9.0, "near"), ("farther", 0.4, 1.0, "near")))
    assert json.loads((run.path / "best" / "best.json").read_text()) == {
        "score_mean_s": 9.0,
        "env_steps": 100,
        "excess": pytest.approx(0.1),
    }
    # A resumed run remembers the excess of its best.
    play((("within", 0.1, 9.5, "within"), ("lower", 0.05, 9.6, "within"), ("better", 0.08, 9.0, "better")))


def test_the_best_policy_is_not_that_of_one_lucky_episode(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    kept = run.path / "best" / "policy" / "policy.json"
    with RunWatch(run, run.policy_config.training) as watch:
        offer(watch, tmp_path, 9.0, "first", episodes=10)
        offer(watch, tmp_path, 9.0, "same", episodes=9)
        offer(watch, tmp_path, 1.0, "lucky", episodes=1)
    # 19 episodes at 9 s and one at 1 s.
    assert kept.read_text() == "lucky"
    assert json.loads((run.path / "best" / "best.json").read_text())["score_mean_s"] == pytest.approx(8.6)
    with RunWatch(run, run.policy_config.training) as watch:
        offer(watch, tmp_path, 20.0, "bad", episodes=20)
        offer(watch, tmp_path, 1.0, "lucky again", episodes=3)
        assert kept.read_text() == "lucky"


def test_the_status_keeps_figures_over_iterations_that_end_no_episode(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with RunWatch(run, run.policy_config.training) as watch:
        for score in (9.0, None, float("nan")):
            watch.on_trial_result(0, [], SimpleNamespace(local_path=None), result(score))
            assert status_module.last_status(run)["figures"]["score_mean_s"] == 9.0


def test_no_best_policy_is_kept_where_none_is_wanted(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with RunWatch(run, run.policy_config.training.model_copy(update={"keep_best": False})) as watch:
        offer(watch, tmp_path, 1.0, "first")
    assert not (run.path / "best").exists()


@pytest.mark.parametrize(("every_s", "asked"), [(None, [False, False]), (50.0, [False, True])])
def test_a_checkpoint_is_asked_for_when_its_time_has_come(
    every_s: float | None, asked: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    now = [1000.0]
    monkeypatch.setattr(status_module.time, "monotonic", lambda: now[0])
    training = run.policy_config.training.model_copy(update={"checkpoint_every_s": every_s})
    found = []
    with RunWatch(run, training) as watch:
        for later_s in (49.0, 2.0):
            now[0] += later_s
            present = result(1.0)
            watch.on_trial_result(0, [], SimpleNamespace(local_path=None), present)
            found.append(present.get("should_checkpoint", False))
    assert found == asked


class OneRunner:
    """A group of remote runners of which one exists, here."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.asked: list[Any] = []

    def foreach_env_runner(self, function: Any, **how: Any) -> None:
        self.asked.append(how)
        function(self.runner)


@pytest.mark.parametrize("event", ["on_env_runners_recreated", "on_checkpoint_loaded"])
def test_runners_that_are_started_again_play_episodes_that_the_run_has_not_had(event: str) -> None:
    first = make_runner(runner_config(), worker=2)
    played: set[int] = set()
    for _ in range(5):
        first.sample(num_timesteps=3 * 20)
        played |= set(first.keys.tolist())
    assert len(played) == 9
    again = make_runner(runner_config(), worker=2)
    group = OneRunner(again)
    algorithm = SimpleNamespace(
        metrics=SimpleNamespace(peek=lambda *_, **__: 300), env_runner_group=group, config=SimpleNamespace()
    )
    callback = OffloadCallback()
    if event == "on_checkpoint_loaded":
        callback.on_checkpoint_loaded(algorithm=algorithm)
    else:
        callback.on_env_runners_recreated(algorithm=algorithm, env_runner_group=group, env_runner_indices=[2])
        assert group.asked == [{"remote_worker_ids": [2], "local_env_runner": False}]
    for _ in range(5):
        again.sample(num_timesteps=3 * 20)
        assert not played & set(again.keys.tolist())
