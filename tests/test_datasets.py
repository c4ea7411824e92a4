"""`record`: what a policy decided becomes a file, row by row true, and a clone learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from helpers.environments import ARRIVAL, small_environment, typed_environment
from helpers.policies import kept
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.episode_keys import training_key
from offload_rllib.envs.vector import NativeEnv, batch_of
from offload_rllib.evaluation import recording
from offload_rllib.evaluation.recording import RECORDED_BY, record_decisions
from offload_rllib.policies.behaviour import probabilities_of
from offload_rllib.policies.heuristic import HeuristicPolicy
from offload_rllib.policies.saved import load_saved_policy
from offload_rllib.rollout.dataset import read_decisions
from offload_rllib.scenario import build_scenario
from offload_rllib.training.imitation import agreement_with, imitate
from offload_rllib.training.rllib_config import algorithm_config, built

ENVIRONMENT = typed_environment() | {"decisions": ARRIVAL}


@pytest.fixture(scope="module")
def env() -> NativeEnv:
    return built(load_environment(ENVIRONMENT))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Decisions of `always_server` in 40 episodes."""
    path = tmp_path_factory.mktemp("decisions") / "server.parquet"
    written = record_decisions(ENVIRONMENT, "always_server", path, episodes=40, seed=3)
    found = pq.read_table(path)
    assert (written.path, written.episodes, written.decisions) == (path, 40, len(found))
    return found


def one_by_one(environment: dict[str, Any], rule: str, seed: int, episode: int) -> list[dict[str, Any]]:
    """Return the rows of one episode that is played alone, in a plain loop over its agents."""
    env: Any = batch_of(build_scenario(load_environment(environment)), 1)
    env.reset(np.array([training_key(seed, RECORDED_BY, 0, episode)], np.uint64))
    rows: list[dict[str, Any]] = []
    open_rows: dict[str, dict[str, Any]] = {}
    by_clock = environment["decisions"]["when"] == "interval"
    while not env.truncated[0]:
        now_s = float(env.state.episode[0]["now_s"])
        asked = range(len(env.agents)) if by_clock else [int(env.deciding[0])]
        actions = env.heuristic_actions(rule)
        for agent in asked:
            name = env.agents[agent]
            at = (0, agent) if by_clock else (0,)
            if name in open_rows:
                before = open_rows[name]
                before |= {"reward": float(env.rewards[at]), "elapsed_s": now_s - before["time_s"]}
            row = {"episode": episode, "time_s": now_s, "agent": name, "action": int(actions[at])}
            row |= {"observation": env.observations[at].copy(), "mask": env.masks[at].copy(), "truncated": False}
            open_rows[name] = row
            rows.append(row)
        env.step(actions)
    final, rewards = (env.observations[0], env.rewards[0]) if by_clock else env.closing(0)[0:3:2]
    for name, row in open_rows.items():
        agent = env.agents.index(name)
        row |= {"reward": float(rewards[agent]), "elapsed_s": 40.0 - row["time_s"], "truncated": True}
        row["final_observation"] = final[agent].copy()
    return rows


@pytest.mark.parametrize("when", ["arrival", "interval"])
def test_every_row_is_what_a_plain_loop_over_agents_finds(when: str, tmp_path: Path) -> None:
    environment = small_environment(decisions={"when": when, "max_hops": 2})
    record_decisions(environment, "shortest_finish", tmp_path / "a.parquet", episodes=3, seed=5)
    found = pq.read_table(tmp_path / "a.parquet").to_pandas()
    expected = [row for episode in range(3) for row in one_by_one(environment, "shortest_finish", 5, episode)]
    assert len(found) == len(expected) > 50
    assert found["final_observation"].notna().sum() == sum(row["truncated"] for row in expected) > 5
    for (_, row), wanted in zip(found.iterrows(), expected, strict=True):
        for column in ("episode", "agent", "action", "truncated"):
            assert row[column] == wanted[column], column
        for column in ("time_s", "reward", "elapsed_s", "observation", "mask"):
            np.testing.assert_allclose(row[column], wanted[column], rtol=1e-6, atol=1e-6, err_msg=column)
        if wanted["truncated"]:
            np.testing.assert_array_equal(row["final_observation"], wanted["final_observation"])


def test_the_batch_makes_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, batch in (("one", 1), ("four", 4)):
        monkeypatch.setattr(recording, "LARGEST_BATCH", batch)
        record_decisions(ENVIRONMENT, "soft_finish", tmp_path / f"{name}.parquet", episodes=5)
    assert pq.read_table(tmp_path / "one.parquet").equals(pq.read_table(tmp_path / "four.parquet"))


@pytest.mark.parametrize(("output", "epsilon"), [("logits", 0.0), ("values", 0.25)])
def test_drawn_actions_have_the_probabilities_of_the_networks(
    output: str, epsilon: float, env: NativeEnv, tmp_path: Path
) -> None:
    policy = kept(tmp_path / "policy", env, "per_device", output=output, epsilon=epsilon, decides="arrival").on(env)
    record_decisions(ENVIRONMENT, tmp_path / "policy", tmp_path / "a.parquet", episodes=2, sampled=True)
    rows = pq.read_table(tmp_path / "a.parquet").to_pandas()
    below = 0
    for _, row in rows.iterrows():
        network = policy.networks[policy.assignment.policy_of[env.agents.index(row["agent"])]]
        with torch.no_grad():
            scores = network(
                torch.from_numpy(row["observation"][None].copy()), torch.from_numpy(row["mask"][None].copy())
            )
        scores = scores[0].double().numpy()[row["mask"] == 1]
        taken = int(row["mask"][: row["action"]].sum())
        if output == "logits":
            expected = np.exp(scores[taken] - scores.max()) / np.exp(scores - scores.max()).sum()
        else:
            expected = epsilon / len(scores) + (1 - epsilon) * (scores[taken] == scores.max())
        assert row["probability"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        below += row["probability"] < 0.99
    assert below > 20


def test_probabilities_that_are_known_without_networks(env: NativeEnv, tmp_path: Path) -> None:
    masks = np.array([[1, 1, 0, 1], [1, 0, 0, 0]], np.int8)
    seen, agents, actions = np.zeros((2, env.observation_size), np.float32), np.array([0, 1]), np.array([3, 0])

    def of(policy: Any, *, deterministic: bool) -> list[float]:
        found = probabilities_of(policy, seen, masks, agents, actions, deterministic=deterministic)
        return found.tolist()

    np.testing.assert_allclose(of(HeuristicPolicy("random", env), deterministic=True), [1 / 3, 1], rtol=1e-6)
    np.testing.assert_array_equal(of(HeuristicPolicy("local", env), deterministic=True), [np.nan, 1])
    np.testing.assert_array_equal(of(None, deterministic=False), [np.nan, 1])
    assert of(kept(tmp_path, env), deterministic=True) == [1, 1]


def test_nothing_is_overwritten_nor_left_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.parquet"
    played = recording._Played.steps

    def interrupted(self: Any) -> Any:
        yield from [next(iter(played(self)))]
        raise KeyboardInterrupt

    monkeypatch.setattr(recording._Played, "steps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record_decisions(ENVIRONMENT, "local", out, episodes=2)
    assert list(tmp_path.iterdir()) == []
    out.write_text("mine")
    with pytest.raises(ConfigError, match=r"a\.parquet: exists and is not overwritten"):
        record_decisions(ENVIRONMENT, "local", out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "a.csv"}, r"--out .*a\.csv: accepted ending: \.parquet"),
        ({"out": "none/a.parquet"}, "none: no such folder"),
        ({"episodes": 0}, "episodes must be at least 1, is 0"),
        ({"policy": "always_cloud"}, "needs a cloud"),
        ({"overrides": ["decisions.when=interval", "decisions.tasks_per_decision=2"]}, "tasks_per_decision: 2"),
        ({"overrides": ["workload.load.tasks_per_second_per_client=1e-9"]}, "no task was to be decided"),
    ],
)
def test_what_cannot_be_recorded_is_rejected(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"policy": "local", "out": "a.parquet", "episodes": 2} | changes
    with pytest.raises(ConfigError, match=message):
        record_decisions(ENVIRONMENT, out=tmp_path / given.pop("out"), **given)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_read_are_those_of_the_file(table: pa.Table, env: NativeEnv, tmp_path: Path) -> None:
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    pq.write_table(shuffled, tmp_path / "a.parquet")
    read = read_decisions(tmp_path / "a.parquet", env)
    steps, rows = read.steps, table.to_pandas()
    assert (read.episodes, len(steps)) == (40, len(rows))
    np.testing.assert_array_equal(steps.observations, np.stack(rows["observation"].to_list()))
    for ours, column in ((steps.actions, "action"), (steps.rewards, "reward"), (steps.elapsed_s, "elapsed_s")):
        np.testing.assert_array_equal(ours, rows[column])
    for row in range(0, len(rows), 7):
        later = rows[row + 1 :]
        later = later[(later["agent"] == rows["agent"][row]) & (later["episode"] == rows["episode"][row])]
        if len(later):
            assert steps.following[row] == later.index[0]
        else:
            assert steps.ended[steps.following[row] - len(steps)]
    assert steps.ended.sum() == rows["truncated"].sum()


def changed(table: pa.Table, column: str, row: int, value: Any, kind: Any = None) -> pa.Table:
    """Return a table with another value in one place."""
    values = table[column].to_pylist()
    values[row] = value
    place = table.schema.get_field_index(column)
    field = pa.field(column, kind or (pa.string() if column == "agent" else table.schema.field(column).type))
    return table.set_column(place, field, pa.array(values, field.type))


LISTS = pa.list_(pa.float64())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace_schema_metadata({b"format": b"1", b"environment": b"0123"}), "'environment' is '0123'"),
        (lambda t: t.replace_schema_metadata(None), "metadata 'format' is missing; accepted: '1'"),
        (lambda t: t.drop_columns(["mask"]), "column 'mask' is missing; needed: episode, time_s"),
        (lambda t: changed(t, "reward", 4, float("nan")), "row 4, column 'reward': nan; accepted: finite"),
        (lambda t: changed(t, "elapsed_s", 5, -1.0), r"row 5, column 'elapsed_s': -1\.0; accepted: 0 or more"),
        (lambda t: changed(t, "action", 6, 99), "row 6, column 'action': 99; accepted: 0 to 2"),
        (lambda t: changed(t, "mask", 7, [0, 0, 0]), "row 7, column 'action': .*; accepted: an action that the mask"),
        (lambda t: changed(t, "mask", 7, [1, 2, 1]), "row 7, column 'mask', number 1: 2; accepted: 0 and 1"),
        (lambda t: changed(t, "mask", 7, [1, None, 1]), "row 7, column 'mask', number 1: .*; accepted: numbers"),
        (lambda t: changed(t, "agent", 8, "nobody"), "row 8, column 'agent': nobody; accepted: agents"),
        (lambda t: changed(t, "time_s", 9, None), "row 9, column 'time_s': null"),
        (lambda t: changed(t, "observation", 2, [1.0], LISTS), "row 2, column 'observation': 1; accepted: lists of"),
        (
            lambda t: changed(t, "observation", 2, [*t["observation"][2].as_py()[:-1], float("inf")]),
            r"row 2, column 'observation', number \d+: inf",
        ),
        (lambda t: changed(t, "truncated", 0, value=True), "row 0, column 'truncated': True; accepted: false"),
        (lambda t: changed(t, "episode", 0, 0.5, pa.float64()), "column 'episode' is double; accepted: whole numbers"),
        (lambda t: t.slice(0, 0), "holds no decision"),
        (lambda t: t.slice(0, 10), "decisions of 1 episode; accepted: 2 or more"),
    ],
)
def test_what_cannot_be_learned_from_is_rejected(
    change: Any, message: str, table: pa.Table, env: NativeEnv, tmp_path: Path
) -> None:
    path = tmp_path / "theirs.parquet"
    pq.write_table(change(table), path)
    policy = load_policy_config("ppo", [f"training.imitate={path}", "training.runners=0"])
    with pytest.raises(ConfigError, match=r"theirs\.parquet: .*" + message):
        algorithm_config(env.scenario.config, policy, cpus=2, env=env)


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really PAR1", None])
def test_what_is_no_file_of_this_kind_is_rejected(content: bytes | None, env: NativeEnv, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.parquet: (not a Parquet file|cannot be read)"):
        read_decisions(path, env)


def own(frame: pd.DataFrame, path: Path) -> None:
    """Write a file as a user would, with pandas' types and the two metadata."""
    found = pa.Table.from_pandas(frame, preserve_index=False)
    about = {"format": "1", "environment": fingerprint(load_environment(ENVIRONMENT))}
    pq.write_table(found.replace_schema_metadata(about), path)


def test_a_clone_of_a_file_decides_as_the_rule_does(table: pa.Table, env: NativeEnv, tmp_path: Path) -> None:
    needed = ["episode", "time_s", "agent", "observation", "mask", "action", "reward", "elapsed_s", "truncated"]
    own(table.to_pandas()[needed], tmp_path / "own.parquet")
    wanted = {"file": str(tmp_path / "own.parquet"), "epochs": 12}
    policy = load_policy_config(
        {
            "algorithm": {"name": "PPO", "batch_env_steps": 160, "minibatch_steps": 64},
            "network": {"hidden": [16]},
            "sharing": "per_device",
            "training": {"runners": 0, "envs_per_runner": 4, "imitate": wanted},
        }
    )
    reached = imitate(tmp_path / "start", policy, env)
    held_out = table.to_pandas().query("episode % 10 == 9")
    assert reached["decisions"] == len(table) - len(held_out)
    assert reached["file"] == wanted["file"]
    assert reached["agreement"] >= 0.99
    clone = load_saved_policy(tmp_path / "start")
    assert agreement_with("always_server", clone, env) >= 0.99
    started = algorithm_config(env.scenario.config, policy, cpus=2, env=env, start=tmp_path / "start")
    assert started.starting_weights.about["critic"] == "taken over"  # type: ignore[attr-defined]
    (tmp_path / "own.parquet").unlink()  # a run that is resumed does not need it
    algorithm_config(env.scenario.config, policy, cpus=2, env=env, start=tmp_path / "start")


def test_a_file_or_a_rule_is_cloned() -> None:
    with pytest.raises(ConfigError, match="give one of the two"):
        load_policy_config("ppo", ["training.imitate.rule=local", "training.imitate.file=a.parquet"])
    given = load_policy_config("ppo", ["training.imitate=a.parquet"]).training.imitate
    assert given is not None
    assert (given.rule, given.file) == (None, str(Path("a.parquet").absolute()))


def test_the_verb_writes_a_file(tmp_path: Path) -> None:
    out = tmp_path / "a.parquet"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(ENVIRONMENT))
    command = ["record", str(tmp_path / "mine.yaml"), "local", "--episodes", "1", "--seed", "2"]
    result = CliRunner().invoke(app, [*command, "--set", "horizon_s=30", "--out", str(out)])
    assert result.exit_code == 0, result.exception
    found = pq.read_table(out)
    assert f"decisions: {len(found)} in 1 episodes" in result.output.replace("\n", "")
    metadata = {key.decode(): value.decode() for key, value in found.schema.metadata.items()}
    assert {"policy": "local", "sampled": "false", "seed": "2", "decides": "arrival"}.items() <= metadata.items()
    assert metadata["environment"] == fingerprint(load_environment(ENVIRONMENT, ["horizon_s=30"]))
