"""What agents see can be chosen, and is described by one layout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, random_actions, small_environment
from helpers.pages import example
from pettingzoo.test import parallel_api_test

import offload_rllib
from offload_rllib.config.decisions import OBSERVATION_GROUPS
from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.layout import CHARGES_APART, FEATURES, GROUPS, OUTLOOK, WEIGHTS, available, layout_of
from offload_rllib.envs.parallel import OffloadParallelEnv

# Its 42 numbers are named by a pattern.
OUTLOOK_AS_LISTED = (OUTLOOK[0], OUTLOOK[0]._replace(name="outlook_PART_NAME"))
PAGE = Path(__file__).parents[1] / "docs" / "observation.md"


def test_groups_are_those_of_the_schema_and_each_has_features() -> None:
    assert set(OBSERVATION_GROUPS) == set(GROUPS)


def test_the_specification_says_what_the_layout_says() -> None:
    table = re.findall(
        r"^\s*\| (\d+) \| ([\w.]+) \| (.+) \| (.+) \| (.+) \|$", OffloadParallelEnv.__doc__ or "", re.MULTILINE
    )
    assert len(table) == len(FEATURES)
    for (_, name, _, unit, span), feature in zip(table, FEATURES, strict=True):
        assert (name.rpartition(".")[2], unit, span) == (feature.name, feature.unit, feature.span)


def test_the_page_lists_the_features_of_every_group() -> None:
    table = PAGE.read_text().partition("| group | features |")[2].partition("\n\n")[0]
    listed = {
        group: set(names.split(", ")) for group, names in re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE)
    }
    assert listed == {
        group: {
            f"{feature.block}.{feature.name}"
            for feature in (
                *available(failures=True, clock=True, rejects=True, charges=True, setups=True),
                *OUTLOOK_AS_LISTED,
                *WEIGHTS,
                *CHARGES_APART,
            )
            if feature.group == group
        }
        for group in GROUPS
    }


@pytest.mark.parametrize("observe", ["paper", ["queue"], ["task", "timing"], list(GROUPS)])
@pytest.mark.parametrize("tasks", [1, 2])
def test_what_is_shown_is_part_of_what_there_is(observe: Any, tasks: int) -> None:
    decisions = {"tasks_per_decision": tasks}
    full, part = (make_env(small_environment(observe=o, decisions=decisions), 2) for o in ("full", observe))
    assert part.layout.size == part.observation_size == len(part.layout.names) == part.observations.shape[-1]
    columns = [full.layout.names.index(name) for name in part.layout.names]
    assert columns == sorted(columns)
    assert (part.layout.size == full.layout.size) == (observe == list(GROUPS))
    rng = np.random.default_rng(0)
    done = False
    while not done:
        assert (part.observations == full.observations[..., columns]).all()
        assert (part.masks == full.masks).all()
        actions = rng.integers(0, 3, full.masks.shape[:-1])
        full.step(actions)
        done = part.step(actions)


def test_the_papers_observation_is_small() -> None:
    env = make_env(small_environment(observe="paper"))
    assert env.layout.names == (
        "row_0.tasks",
        "row_0.speed",
        *(f"row_{row}.{name}" for row in (1, 2) for name in ("valid", "tasks")),
    )
    face = offload_rllib.parallel_env(small_environment(observe="paper"))
    assert face.observation_space("a")["observation"].shape == (6,)  # pyright: ignore[reportIndexIssue]
    parallel_api_test(face, num_cycles=60)


def test_a_layout_splits_observations_of_any_shape_into_views_of_its_blocks() -> None:
    import torch

    layout = layout_of(3, 2)
    assert (layout.self_size, layout.task_size, *layout.blocks) == (4, 7, 11, 7, 12, 0, 0)
    numbers = np.arange(4 * 5 * layout.size, dtype=np.float32).reshape(4, 5, layout.size)
    names = np.array(layout.names)
    at = list(names).index
    for array in (numbers, torch.from_numpy(numbers)):
        of_self, tasks, here, rows = layout.split(array)
        assert tuple(of_self.shape) == (4, 5, 4)
        assert tuple(tasks.shape) == (4, 5, 2, 7)
        assert tuple(here.shape) == (4, 5, 2, 7)
        assert tuple(rows.shape) == (4, 5, 2, 2, 12)
        assert layout.position("row", "finish") == 5
        assert (
            layout.position("task", "work") == layout.position("self", "awaited") == layout.position("row", "wait") == 1
        )
        assert layout.position("here", "wait") == 0
        assert layout.columns("wait") == [at(f"row_{row}.wait") for row in range(3)]
        assert layout.columns("wait", 1) == [at(f"task_1.row_{row}.wait") for row in range(3)]
        with pytest.raises(ValueError, match=r"no feature 'row_0\.sent' is shown"):
            layout.columns("sent")
        with pytest.raises(ValueError, match="no feature 'wait' of the block task"):
            layout.position("task", "wait")
        assert (rows[..., 1, 1, 5] == array[..., at("task_1.row_2.finish")]).all()
        assert (rows[..., 0, 0, 0] == array[..., at("row_1.valid")]).all()
        assert (here[..., 1, 0] == array[..., at("task_1.row_0.wait")]).all()
        assert (tasks[..., 1, 1] == array[..., at("task_1.work")]).all()


@pytest.mark.parametrize(
    ("arrivals", "period_s", "phase"),
    [
        ({"kind": "diurnal", "period_s": 20, "amplitude": 0.5, "phase": 0.25}, 20.0, 0.25),
        ({"kind": "zigzag", "period_s": 16, "low_level": 0.5, "high_level": 2, "phase": 0.5}, 16.0, 0.5),
        ({"kind": "linear", "first_level": 0.5, "last_level": 2}, 80.0, 0.0),  # half a turn in an episode of 40 s
        ({"kind": "diurnal", "period_s": 20, "amplitude": 0.5, "heterogeneous": True}, 0.0, 0.0),
        (None, 0.0, 0.0),
    ],
)
def test_the_time_of_day_is_shown_where_the_load_follows_it(arrivals: Any, period_s: float, phase: float) -> None:
    environment = small_environment()
    if arrivals is not None:
        environment["workload"]["arrivals"] = arrivals
    env = make_env(environment)
    clock = ["self.clock_sin", "self.clock_cos"]
    if not period_s:
        assert not set(clock) & set(env.layout.names)
        with pytest.raises(ConfigError, match="show nothing where no node fails"):
            make_env(environment | {"observe": ["clock"]})
        return
    columns = [env.layout.names.index(name) for name in clock]
    assert columns == [4, 5]
    for step in range(35):
        angle = 2 * np.pi * (step / period_s + phase)
        expected = np.tile([np.sin(angle), np.cos(angle)], (4, 1))
        assert env.observations[0][:, columns] == pytest.approx(expected, abs=1e-6)
        env.step(np.zeros(env.rewards.shape))


@pytest.fixture
def observations_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put the example of the page on observations into the working folder."""
    (tmp_path / "my_observations.py").write_text(example(PAGE, "my_observations.py"))
    monkeypatch.chdir(tmp_path)
    return "my_observations:true_tasks"


def test_a_users_observation_is_what_agents_see(observations_module: str) -> None:
    env = make_env(small_environment(observe=observations_module), 2)
    nodes = len(env.scenario.network.nodes)
    assert env.observations.shape == (2, 4, nodes)
    assert env.layout.size == nodes
    rng = np.random.default_rng(0)
    done = False
    while not done:
        expected = env.state.node["tasks"] / (env.state.node["tasks"] + 4)
        assert env.observations == pytest.approx(np.broadcast_to(expected[:, None], env.observations.shape))
        done = env.step(random_actions(env, rng))
    # Rules see everything nevertheless.
    env.reset(np.arange(2, dtype=np.uint64))
    plain = make_env(small_environment(), 2)
    plain.reset(np.arange(2, dtype=np.uint64))
    assert (env.heuristic_actions("shortest_finish") == plain.heuristic_actions("shortest_finish")).all()
    face = offload_rllib.parallel_env(env.scenario.config)
    parallel_api_test(face, num_cycles=60)


@pytest.mark.parametrize(
    ("observe", "message"),
    [
        ("most", r"observe: must be full, paper, package.module:function, or a list of queue, self.*'most'"),
        ([], r"observe: the list is empty"),
        (["queue", "radoi"], r"observe: 'radoi' is not a group of features; accepted: .*radio"),
        (["queue", "queue"], r"observe: names a group twice"),
        (3, r"observe: must be full, paper"),
        ("nowhere:function", r"observe: nowhere:function: importing nowhere failed"),
    ],
)
def test_observations_that_cannot_be_are_refused(observe: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        offload_rllib.vector_env(small_environment(observe=observe))


def test_what_a_users_observation_returns_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_observations.py").write_text(
        "import numpy as np\n"
        "def flat(view):\n    return np.zeros(3)\n"
        "def words(view):\n    return np.full((1, 4, 2), 'x')\n"
        "def ragged(view):\n    return [[1.0], [1.0, 2.0]]\n"
        "def broken(view):\n    return view.no_such_thing\n"
        "def huge(view):\n    return np.full((1, 4, 2), 1e39)\n"
        "def later(view):\n    return np.zeros((1, 4, 2 + int(view.state.episode[0]['step'])))\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("flat", "words"):
        with pytest.raises(ConfigError, match=rf"bad_observations:{name} must return numbers of shape \(1, 4, any\)"):
            make_env(small_environment(observe=f"bad_observations:{name}"))
    for name, message in (
        ("ragged", r"bad_observations:ragged returned what is no array"),
        ("huge", r"bad_observations:huge returned a number beyond 3.4e\+38"),
        ("broken", r"observe: bad_observations:broken raised AttributeError.*bad_observations.py, line 9\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_env(small_environment(observe=f"bad_observations:{name}"))
    env = make_env(small_environment(observe="bad_observations:later"))
    with pytest.raises(ConfigError, match=r"bad_observations:later must return numbers of shape \(1, 4, 2\)"):
        env.step(np.zeros(env.rewards.shape))
