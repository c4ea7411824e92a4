"""Who is compared: several runs are one policy only if nothing but the seed differs; sampled means drawn."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, small_environment
from helpers.policies import PPO, kept

from offload_rllib import load_policy
from offload_rllib.compare import run as compare_run
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.evaluation.evaluate import LARGEST_BATCH, Place, Player, cells_of, evaluate
from offload_rllib.evaluation.players import make_contenders, trained_contenders
from offload_rllib.runs.training_run import RunFolder

ENVIRONMENT = small_environment()


def finished_run(path: Path, seed: int, *, draw: int | None = None, env_steps: int = 200_000, **policy: Any) -> Path:
    """Return the folder of a run with random weights."""
    training = {"seed": seed, **policy.pop("training", {})}
    config = load_policy_config(PPO | {"training": training} | policy)
    run = RunFolder.create(str(path), load_environment(ENVIRONMENT), config, "")
    draw = seed if draw is None else draw
    kept(run.path / "policy", make_env(ENVIRONMENT), draw=draw, environment="0123456789ab", env_steps=env_steps)
    return run.path


def test_runs_that_differ_by_their_seed_alone_are_one_policy(tmp_path: Path) -> None:
    elsewhere = {"cpus_per_runner": 0.5, "keep_checkpoints": 9}
    folders = [
        finished_run(tmp_path / "a", 3),
        # Asynchronous learners end a little later or earlier.
        finished_run(tmp_path / "b", 1, env_steps=203_000, training=elsewhere, description="again"),
    ]
    found = trained_contenders("mine", folders, {"0123456789ab": "ring"})
    assert [(one.name, one.training_seed, one.trained_on) for one in found] == [
        *(("mine", 3, "ring"), ("mine", 1, "ring"), ("mine (sampled)", 3, "ring"), ("mine (sampled)", 1, "ring")),
    ]
    policies = [folder / "policy" for folder in folders]
    assert [one.training_seed for one in trained_contenders("mine", policies)][:2] == [0, 1], "policies know no seed"


def copied(path: Path, first: Path) -> Path:
    return Path(shutil.copytree(first, path))


def linked(path: Path, first: Path) -> Path:
    path.symlink_to(first, target_is_directory=True)
    return path


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (copied, r"first and .*second hold the same policy: copies of one run are not several training seeds"),
        (linked, r"hold the same policy"),
        (lambda path, _: finished_run(path, 0, draw=1), r"first and .*second were both trained with training.seed 0"),
        (lambda path, _: finished_run(path, 1, draw=0), r"hold the same policy"),
        (
            lambda path, _: finished_run(path, 1, algorithm={"name": "PPO", "lr": 0.01}),
            r"are not one policy with different training seeds: algorithm.lr is 0.0003 and 0.01",
        ),
        (
            lambda path, _: finished_run(path, 1, network={"hidden": [8, 8]}),
            r"network.hidden is \[64, 64\] and \[8, 8\]",
        ),
        (lambda path, _: finished_run(path, 1, training={"env_steps": 400_000}), r"training.env_steps is 200000 and"),
        (lambda path, _: finished_run(path, 1, env_steps=150_000), r"environment steps 200000 and 150000"),
        (
            lambda path, _: finished_run(path, 1, policies={"shared": {"lr": 0.1}}),
            r"policies.shared.lr is None and 0.1",
        ),
    ],
)
def test_other_runs_are_refused(tmp_path: Path, second: Callable[[Path, Path], Path], message: str) -> None:
    first = finished_run(tmp_path / "first", 0)
    with pytest.raises(ConfigError, match=message):
        trained_contenders("mine", [first, second(tmp_path / "second", first)])


def test_a_policy_plays_greedily_and_what_is_called_sampled_draws(tmp_path: Path) -> None:
    policy = kept(tmp_path / "policy", make_env(ENVIRONMENT))
    greedy, sampled = make_contenders([str(tmp_path / "policy")])
    assert (greedy.name, sampled.name) == ("policy", "policy (sampled)")
    env = make_env(ENVIRONMENT, 32)
    for _ in range(8):
        env.step(env.heuristic_actions("random"))
    for contender, deterministic in ((greedy, True), (sampled, False)):
        assert contender.deterministic == deterministic
        fitted = policy.on(env)
        fitted.seed(5)
        seen = env.observations.copy(), env.masks.copy()
        expected = fitted(*seen, deterministic=deterministic)
        begun = contender.begin(env, 5)
        np.testing.assert_array_equal(begun(*seen, deterministic=deterministic), expected)
        choices = env.masks.sum(-1) > 1
        again = begun(*seen, deterministic=deterministic)
        assert (again != expected)[choices].any() == (not deterministic), "every draw is another one"


def test_every_batch_of_an_evaluation_plays_its_own_episodes_with_its_own_draws(tmp_path: Path) -> None:
    kept(tmp_path / "policy", make_env(ENVIRONMENT))
    names, count = [str(tmp_path / "policy"), "random"], LARGEST_BATCH + 5
    played = evaluate(load_environment(ENVIRONMENT), make_contenders(names), episodes=count, seed=7)
    for name in played.policies:
        rest = np.concatenate([played.of(name, "score_mean_s")[LARGEST_BATCH:]])
        contender = next(one for one in make_contenders(names) if one.name == name)
        env = make_env(ENVIRONMENT, len(rest))
        env.reset(held_out_keys(7, count)[LARGEST_BATCH:])
        policy = contender.begin(env, 7 + 1)
        while not env.step(policy(env.observations, env.masks, deterministic=contender.deterministic)):
            pass
        np.testing.assert_array_equal(rest, [env.episode_metrics(e)["score_mean_s"] for e in range(env.num_envs)])
    tasks = played.of("random", "tasks_created")
    assert (tasks[:5] != tasks[LARGEST_BATCH:]).any()


def test_batches_cover_all_episodes_once() -> None:
    place = Place("ring", load_environment(ENVIRONMENT))
    cells = cells_of(place, make_contenders(["local", "random"]), episodes=2 * LARGEST_BATCH + 3, seed=9, log=True)
    for name in ("local", "random"):
        mine = [cell for cell in cells if cell.contender.name == name]
        assert [(cell.first, cell.count) for cell in mine] == [(0, 32), (32, 32), (64, 3)]
        assert all((cell.seed, cell.log, cell.place) == (9, True, place) for cell in mine)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "other"},
        {"fingerprint": "other"},
        {"policy": "other"},
        {"training_seed": 9},
        {"first": 1},
        {"count": 3},
        {"seed": 9},
        {"format": 1},
    ],
)
def test_a_kept_batch_is_used_again_for_the_same_weights_and_episodes_alone(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    kept(tmp_path / "policy", make_env(ENVIRONMENT))
    contender = make_contenders([str(tmp_path / "policy")])[0]
    (cell,) = cells_of(Place("ring", load_environment(ENVIRONMENT)), [contender], episodes=2, seed=0)
    played = Player().play(cell)
    (tmp_path / compare_run.CELLS).mkdir()
    compare_run.keep(tmp_path, 0, cell, played)
    again = compare_run.kept(tmp_path, 0, cell)
    assert again is not None
    assert again.figures == played.figures
    np.testing.assert_array_equal(again.responses, played.responses)
    assert (again.timed, again.wall_s, again.cpu_s) == (played.timed, played.wall_s, played.cpu_s)
    assert compare_run.kept(tmp_path, 1, cell) is None
    if change == {"weights": "other"}:
        shutil.rmtree(tmp_path / "policy")
        kept(tmp_path / "policy", make_env(ENVIRONMENT), draw=1)
    else:
        path = compare_run.cell_file(tmp_path, 0)
        content = compare_run.json.loads(path.read_text()) | change
        path.write_text(compare_run.json.dumps(content))
    with pytest.raises(ConfigError, match=r"00000.json: holds the results of something else"):
        compare_run.kept(tmp_path, 0, cell)


@pytest.mark.parametrize("name", ["random", "folder"])
def test_a_contender_loads_its_policy_again_in_another_process(tmp_path: Path, name: str) -> None:
    kept(tmp_path / "policy", make_env(ENVIRONMENT))
    contender = make_contenders([str(tmp_path / "policy") if name == "folder" else name])[-1]
    env = make_env(ENVIRONMENT, 4)
    chosen = contender.begin(env, 3)(env.observations, env.masks, deterministic=contender.deterministic)
    sent = pickle.loads(pickle.dumps(contender))  # noqa: S301 - what this test wrote
    assert sent == contender
    assert (contender.policy is None, sent.policy) == (False, None)
    again = sent.begin(env, 3)(env.observations, env.masks, deterministic=sent.deterministic)
    np.testing.assert_array_equal(again, chosen)


def test_an_error_names_the_policy_that_does_not_fit(tmp_path: Path) -> None:
    kept(tmp_path / "policy", make_env(ENVIRONMENT))
    trained, _ = make_contenders([str(tmp_path / "policy")])
    other = make_env("ether_12")
    with pytest.raises(ConfigError, match=f"^{tmp_path / 'policy'}: "):
        trained.begin(other, 0)
    (rule,) = make_contenders(["always_cloud"])
    with pytest.raises(ConfigError, match=r"^policies: 'always_cloud' needs a cloud"):
        rule.begin(make_env(ENVIRONMENT), 0)
    with pytest.raises(ConfigError, match="'always_cloud' needs a cloud"):
        load_policy("always_cloud").on(make_env(ENVIRONMENT))
