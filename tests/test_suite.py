"""Scorecards of the suite: played again to the digit, honest about what may be compared, and checked from outside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.environments import make_env
from helpers.policies import kept
from helpers.suites import seal, small_suite
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError
from offload_rllib.config.loading import PACKAGE
from offload_rllib.policies.saved import DESCRIPTION
from offload_rllib.suite import scorecard
from offload_rllib.suite.check import FAILED, NOTE, PASSED, check_result, contenders_of, hidden_seed
from offload_rllib.suite.results import POLICIES, RESULT, PolicyResult, Result, read_result, references, write_result
from offload_rllib.suite.scenarios import places, scenarios
from offload_rllib.suite.scorecard import entrants, new_result, play, reproduced, why_not_comparable
from offload_rllib.suite.table import page, table_of

CHECKOUT = Path(__file__).parents[1]
RULES = ("local", "shortest_finish")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A suite of one small scenario; the working folder is an empty one beside it."""
    with small_suite(tmp_path, monkeypatch):
        yield tmp_path / "work"


def played(folder: Path, policies: tuple[str, ...] = RULES, episodes: int = 20, **asked: Any) -> Result:
    """Play policies in the small scenario; the result is in a folder."""
    folder.mkdir(parents=True)
    about = {"command": "none", "episodes": episodes, "seed": 0} | asked
    for _ in play(new_result((), policies, **about), folder):
        pass
    return read_result(folder)


def learner(folder: Path, seeds: int, env_steps: int = 1000) -> str:
    """Save untrained networks as the training seeds of a learner; return what names them."""
    env = make_env(places()[0].environment())
    paths = [folder / str(seed) for seed in range(seeds)]
    for seed, path in enumerate(paths):
        kept(path, env, draw=seed, env_steps=env_steps)
    return "mine=" + ",".join(map(str, paths))


def outcomes(result: Result, folder: Path, seed: int = 5) -> dict[tuple[str, str], str]:
    """Return what a check finds, by policy and check."""
    return {(one.policy, one.check): one.outcome for one in check_result(result, folder, seed)}


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["suite", *arguments])


def test_a_run_is_written_printed_and_checked(small: Path) -> None:
    done = run("run", "--bound", "--out", "mine")
    assert done.exit_code == 0, done.output
    assert "not comparable" not in done.output
    result = read_result(small / "mine")
    assert result.finished
    (point,) = result.points
    assert [exact.passed for exact in point.exact] == [True, True]
    assert point.bound is not None
    assert point.bound.mean_s < min(policy.figures["score_mean_s"].mean or 0.0 for policy in point.policies)
    checked = run("check", "mine", "--hidden-seed", "5")
    assert checked.exit_code == 0, checked.output
    assert "the same to the digit" in checked.output.replace("\n", " ")
    assert run("run", "--out", "mine").exception.args[0].startswith("mine: exists and is not overwritten")
    assert set(outcomes(result, small / "mine").values()) == {PASSED}


def test_an_interrupted_run_is_continued(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(scorecard, "play_point", interrupted)
        stopped = run("run", "--policy", "local", "--out", "mine")
    assert stopped.exit_code == 130
    assert "suite run --resume mine" in stopped.output
    assert not read_result(small / "mine").finished
    with pytest.raises(ConfigError, match="holds 0 of 1 points; accepted: a finished result"):
        outcomes(read_result(small / "mine"), small / "mine")
    assert run("run", "--resume", "mine").exit_code == 0
    assert [policy.name for policy in read_result(small / "mine").points[0].policies] == ["local"]
    assert "nothing to resume" in run("run", "--resume", "mine").exception.args[0]


def test_rules_that_look_at_what_is_hidden_are_refused(small: Path) -> None:
    refused = run("run", "--policy", "shortest_finish_oracle", "--out", "mine").exception
    assert refused.args[0].startswith("--policy 'shortest_finish_oracle': looks at the true state of other nodes")
    assert not (small / "mine").exists()
    result = played(small / "honest", ("local",))
    policy = result.points[0].policies[0].model_copy(update={"source": "shortest_finish_oracle"})
    with pytest.raises(ConfigError, match="looks at the true state"):
        contenders_of(policy, small)


def test_learners_need_seeds_episodes_and_the_budget(small: Path) -> None:
    (place,) = places()
    whole = played(small / "whole", (learner(small / "runs", 5),))
    greedy, sampled = whole.points[0].policies
    assert greedy.not_comparable == sampled.not_comparable == ()
    assert len(table_of(whole.points[0])) == 2
    assert (greedy.level, len(greedy.scores_s), len(greedy.scores_s[0])) == (2, 5, 20)
    few = played(small / "few", (learner(small / "two", 2),), 2)
    assert few.points[0].policies[0].not_comparable[0] == "2 held-out episodes; 20 are needed"
    assert len(table_of(few.points[0])) == 0
    for count, steps, episodes, seed, expected in (
        (5, 1049, 20, 0, []),
        (5, 951, 21, 0, []),
        (4, 1000, 20, 0, ["4 training seeds; 5 are needed"]),
        (5, 900, 20, 0, ["trained with 900 decisions; the budget is 1,000, within 5%"]),
        (5, 1051, 20, 0, ["trained with 1,051 decisions; the budget is 1,000, within 5%"]),
        (5, 1000, 19, 0, ["19 held-out episodes; 20 are needed"]),
        (5, 1000, 20, 3, ["held-out seed 3; tables are of seed 0"]),
    ):
        seeds = [greedy.seeds[0].model_copy(update={"env_steps": steps})] * count
        assert why_not_comparable("trained", seeds, place.scenario, episodes, seed) == expected


def test_functions_are_labelled_and_cannot_be_checked(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small / "my_rules_of_suite.py").write_text(
        "import numpy as np\n\ndef keep(view):\n    return np.zeros(view.masks.shape[:2], int)\n"
    )
    monkeypatch.syspath_prepend(str(small))
    result = played(small / "mine", ("my_rules_of_suite:keep", "local"), 2)
    code, local = result.points[0].policies
    assert "a function of Python: what it looks at cannot be checked" in code.not_comparable
    assert code.scores_s == local.scores_s
    with pytest.raises(ConfigError, match="a code cannot be checked: the check runs no code of others"):
        outcomes(result, small / "mine")


def changed(result: Result, **changes: Any) -> Result:
    """Return a result with other statements about its first policy."""
    (point,) = result.points
    policy = point.policies[0].model_copy(update=changes)
    return result.model_copy(update={"points": (point.model_copy(update={"policies": (policy,)}),)})


def scaled(policy: PolicyResult, factor: float) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(factor * (score or 0.0) for score in row) for row in policy.scores_s)


def test_invented_scores_are_found(small: Path) -> None:
    result = played(small / "mine", ("local",))
    policy = result.points[0].policies[0]
    better = scaled(policy, 0.9)
    found = outcomes(changed(result, scores_s=better), small / "mine")
    assert found["local", "stated episodes"] == FAILED
    assert found["local", "mean"] == FAILED
    lucky = scaled(policy, 0.5)
    assert outcomes(changed(result, scores_s=lucky), small / "mine")["local", "hidden episodes"] == FAILED
    hidden = changed(result, not_comparable=("something",))
    assert outcomes(hidden, small / "mine")["local", "comparable"] == FAILED
    exact = result.points[0].model_copy(update={"exact": (result.points[0].exact[0],)})
    found = outcomes(result.model_copy(update={"points": (exact,)}), small / "mine")
    assert found["recorded, local", "exact responses"] == FAILED
    few = played(small / "few", ("local",), 2)
    assert outcomes(few, small / "few")["local", "comparable"] == NOTE


def test_invented_bounds_are_found(small: Path) -> None:
    result = played(small / "mine", ("local",), 2, bounds=True)
    (point,) = result.points
    assert point.bound is not None

    def found(**changes: Any) -> str:
        bound = point.bound.model_copy(update=changes) if point.bound else None
        told = result.model_copy(update={"points": (point.model_copy(update={"bound": bound}),)})
        return outcomes(told, small / "mine")["", "bound"]

    assert found() == PASSED
    assert found(mean_s=point.bound.mean_s * (1 + 1e-7)) == PASSED
    for changes in (
        {"mean_s": point.bound.mean_s * 1.001},
        {"mean_s": point.bound.mean_s * 0.999},
        {"high_s": None},
        {"episodes": point.bound.episodes + 1},
        {"slot_s": 123.0},
    ):
        assert found(**changes) == FAILED, changes
    skipped = run("check", str(small / "mine"), "--no-bound")
    assert skipped.exit_code == 0, skipped.output
    assert "bound" not in skipped.output
    assert "bound" in run("check", str(small / "mine")).output


def test_few_hidden_episodes_are_refused() -> None:
    refused = run("check", "mine", "--episodes", "2")
    assert refused.exit_code == 2
    assert "10" in refused.output, "two episodes that are alike by chance would fail an honest result"


def test_hidden_seeds_are_drawn_and_never_the_stated_ones() -> None:
    drawn = {hidden_seed() for _ in range(20)}
    assert len(drawn) == 20
    assert 0 not in drawn


def test_policies_that_were_changed_or_name_code_are_refused(small: Path) -> None:
    folder = small / "mine"
    result = played(folder, (learner(small / "runs", 2),), 2)
    assert set(outcomes(result, folder).values()) == {PASSED, NOTE}
    greedy = result.points[0].policies[0]
    first = folder / greedy.seeds[0].folder
    assert first.parent == folder / POLICIES
    text = (first / DESCRIPTION).read_text()
    (first / DESCRIPTION).write_text(text + " ")
    with pytest.raises(ConfigError, match=r"policy\.json: its SHA-256 is .*; the result states"):
        outcomes(result, folder)
    (first / DESCRIPTION).write_text(text)
    outside = greedy.seeds[0].model_copy(update={"folder": "../runs/0"})
    with pytest.raises(ConfigError, match=r"folder \.\./runs/0: must lie beside the result"):
        outcomes(changed(result, seeds=(outside,)), folder)
    shutil.rmtree(first)
    with pytest.raises(ConfigError, match="no policy here"):
        outcomes(result, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content | {"suite": 6}, "suite: is 6; accepted: 7, the version of this suite"),
        (lambda content: content | {"format": 2}, "format: is 2; accepted: 1"),
        (lambda _: {}, "format: is missing; accepted: 1"),
        (lambda content: content | {"more": 1}, "more: unknown key"),
        (lambda content: content | {"episodes": "many"}, "episodes: Input should be a valid integer"),
    ],
)
def test_results_of_other_versions_are_refused(small: Path, change: Any, message: str) -> None:
    played(small / "mine", ("local",), 2)
    path = small / "mine" / RESULT
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ConfigError) as error:
        read_result(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_a_result_that_is_cut_off_or_of_another_scenario_is_refused(small: Path) -> None:
    result = played(small / "mine", ("local",), 2)
    path = small / "mine" / RESULT
    path.write_text(path.read_text()[:-100])
    with pytest.raises(ConfigError, match=r"result\.json: not a result of the suite: "):
        read_result(path)
    point = result.points[0]
    for update, message in (
        ({"scenario_version": 2}, "SMALL-4: version 2, fingerprint"),
        ({"fingerprint": "0" * 12}, "fingerprint 000000000000; accepted: version 1, fingerprint"),
        ({"point": "two"}, "'SMALL-4/two': no point of this suite"),
    ):
        other = result.model_copy(update={"points": (point.model_copy(update=update),)})
        write_result(other, path)
        with pytest.raises(ConfigError, match=message):
            outcomes(read_result(path), small / "mine")


def test_the_table_puts_results_beside_the_reference(small: Path) -> None:
    with pytest.raises(ConfigError, match="the suite has no reference results"):
        page(references())
    folder = small.parent / "suite"
    played(folder / "results" / "small_4")
    seal(folder)
    scenarios.cache_clear()
    mine = played(small / "mine", (learner(small / "runs", 5),))
    alone, both = page(references()), page(references(), [mine])
    assert "| mine " not in alone
    assert "| mine " in both
    assert "5 seeds, 1,000 decisions each" in both
    rows = [line for line in both.splitlines() if line.startswith("| ")]
    assert any("shortest_finish" in row for row in rows)
    assert run("table", "mine", "--out", "page.md").exit_code == 0
    assert (small / "page.md").read_text() == both
    assert "is not overwritten" in run("table", "--out", "page.md").exception.args[0]
    printed = run("run", "--policy", "local", "--out", "again").output.replace("\n", " ")
    assert "as the reference: to the digit" in printed


@pytest.mark.parametrize("name", ["mine=", "a/b=x,y", "no_such_rule"])
def test_policies_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        entrants([name])


def again(name: str, rules: tuple[str, ...], folder: Path) -> None:
    """Play rules of a scenario of the checkout; the scores must be those of its reference, to the digit."""
    known = references()
    asked = {"command": "none", "episodes": 20, "seed": 0}
    for point in play(new_result([name], rules, **asked), folder):
        reference = known[point.scenario, point.point]
        assert point.exact == reference.exact
        for policy in point.policies:
            assert reproduced(policy, reference) == "to the digit", (point.point, policy.name)


def test_references_are_played_again_to_the_digit(tmp_path: Path) -> None:
    again("ETHER-12", ("shortest_finish", "size_interval:3"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", scenarios())
def test_all_references_are_played_again_to_the_digit(name: str, tmp_path: Path) -> None:
    again(name, (), tmp_path)


def test_every_point_has_a_reference_that_may_be_compared() -> None:
    known = references()
    for place in places():
        point = known[place.scenario.title, place.point.name]
        assert point.fingerprint == place.point.fingerprint
        assert point.scenario_version == place.scenario.version
        assert {policy.name for policy in point.policies} >= set(place.scenario.rules)
        assert not any(policy.not_comparable for policy in point.policies)
        assert all(exact.passed for exact in point.exact)
        assert (point.bound is None) == (place.scenario.bound.episodes == 0)


def test_the_page_is_that_of_the_references() -> None:
    assert PACKAGE.parent == CHECKOUT
    text = (CHECKOUT / "docs" / "suite_results.md").read_text()
    assert text == page(references()), "write it again: offload-rllib suite table --force --out docs/suite_results.md"
