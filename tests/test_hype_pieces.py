"""The study of docs/hype.md: its methods act validly and reproducibly, and its pieces are done once or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from offload_rllib.config import ConfigError
from offload_rllib.envs.vector import batch_of, held_out_keys
from offload_rllib.evaluation.evaluate import play_episodes
from offload_rllib.scenario import build_scenario
from scripts.hype import plan, run
from scripts.hype.__main__ import main
from scripts.hype.plan import BY_NAME, METHODS, Budget, Piece, pieces
from scripts.hype.run import chosen_pieces, file_of, identity, read_piece, tuned_rule
from tests.helpers.hype import short_environment

REBUILT = [method.name for method in METHODS if method.kind == "rebuilt"]
TINY = Budget(decisions=400, seeds=2, episodes=2)
RULES = Piece("geometric_20", plan.RULES)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "environment_of", lambda _: short_environment())


@pytest.mark.parametrize("name", REBUILT)
def test_a_method_acts_validly_and_the_same_seed_gives_the_same_bits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An invalid action raises in this environment, in training as in play.
    method, scenario = BY_NAME[name], build_scenario(short_environment())
    assert method.train is not None
    if "learning_starts" in method.settings:
        monkeypatch.setitem(method.settings, "learning_starts", 200)
    if "population" in method.settings:
        monkeypatch.setitem(method.settings, "population", 5)
    if "samples_before_learning" in method.settings:
        monkeypatch.setitem(method.settings, "samples_before_learning", 2)
        monkeypatch.setitem(method.settings, "decisions_per_round", 200)
    env = batch_of(scenario, 2)
    played = []
    for seed in (1, 1, 2):
        policy, taken = method.train(scenario, TINY.decisions, seed, lambda _: None)
        assert taken >= TINY.decisions
        found = []
        for deterministic in (True, *([False] if method.draws else [])):
            fitted = policy.on(env)
            fitted.seed(0)
            env.reset(held_out_keys(0, 2))
            play_episodes(env, fitted, deterministic=deterministic)
            found += [env.episode_metrics(e) for e in range(2)]
        assert {each["masked_actions"] for each in found} == {0}
        played.append(found)
    # As text: a figure may be NaN, which equals nothing.
    assert repr(played[0]) == repr(played[1])
    assert repr(played[0]) != repr(played[2])


def test_drawn_actions_follow_the_scores() -> None:
    policy = BY_NAME["mappo"]
    assert policy.draws
    scored = plan.mappo.ScoredPolicy(lambda seen, *_: np.log(np.tile([0.2, 0.5, 0.3], (len(seen), 1))))
    masks = np.tile([1, 1, 0], (4000, 1))
    drawn = scored(np.zeros((4000, 1)), masks, deterministic=False)
    assert set(drawn.tolist()) == {0, 1}
    assert (drawn == 1).mean() == pytest.approx(0.5 / 0.7, abs=0.03)
    assert (scored(np.zeros((4000, 1)), masks) == 1).all()


def test_a_tuned_rule_is_chosen_within_the_budget() -> None:
    rule, taken = tuned_rule(short_environment(), 40_000, 0)
    assert rule.partition(":")[0] in {"size_interval", "deadline_finish", "shortest_finish", "keep_first"}
    assert 10_000 < taken < 50_000
    assert (rule, taken) == tuned_rule(short_environment(), 40_000, 0)


@pytest.mark.usefixtures("short")
def test_a_piece_that_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only, console = ["geometric_20-rules", "geometric_20-genetic-1"], Console(quiet=True)
    run.run(tmp_path, TINY, only, console)
    genetic = Piece("geometric_20", "genetic", 1)
    first = {piece: file_of(tmp_path, piece).read_text() for piece in (RULES, genetic)}
    with monkeypatch.context() as patch:
        patch.setattr(run, "do_piece", lambda *_: pytest.fail("done twice"))
        run.run(tmp_path, TINY, only, console)
    file_of(tmp_path, genetic).unlink()
    run.run(tmp_path, TINY, only, console)
    assert file_of(tmp_path, RULES).read_text() == first[RULES]
    again, before = json.loads(file_of(tmp_path, genetic).read_text()), json.loads(first[genetic])
    assert {key for key in before if before[key] != again[key]} <= {"training_cpu_s", "playing_cpu_s", "load"}
    assert len(again["figures"]["genetic"]["score_mean_s"]) == TINY.episodes
    assert sorted(path.name for path in (tmp_path / run.PIECES).iterdir()) == [
        "geometric_20-genetic-1.json",
        "geometric_20-rules.json",
    ]


@pytest.mark.usefixtures("short")
def test_an_interruption_leaves_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(piece: Piece, *rest: object) -> None:
        if piece != RULES:
            raise KeyboardInterrupt
        do_piece(piece, *rest)  # pyright: ignore[reportArgumentType]

    do_piece = run.do_piece
    monkeypatch.setattr(run, "do_piece", interrupted)
    size = ["--decisions", "400", "--seeds", "2", "--episodes", "2"]
    only = ["geometric_20-rules", "geometric_20-genetic-0"]
    assert main(["--folder", str(tmp_path), "--only", *only, *size]) == 130
    assert [path.name for path in (tmp_path / run.PIECES).iterdir()] == ["geometric_20-rules.json"]


@pytest.mark.usefixtures("short")
def test_a_file_of_something_else_is_refused_with_its_key(tmp_path: Path) -> None:
    run.run(tmp_path, TINY, ["geometric_20-rules"], Console(quiet=True))
    path = file_of(tmp_path, RULES)
    whole = json.loads(path.read_text())
    assert read_piece(tmp_path, RULES, TINY) == whole
    for key, value in (
        ("fingerprint", "0" * 12),
        ("method", "mappo"),
        ("budget", whole["budget"] | {"decisions": 401}),
        ("simulator", "another"),
        ("figures", [1]),
        ("training_cpu_s", None),
    ):
        path.write_text(json.dumps(whole | {key: value}))
        with pytest.raises(ConfigError, match=rf"geometric_20-rules\.json: {key}: is .*delete"):
            read_piece(tmp_path, RULES, TINY)
    del whole["figures"]["local"]["dropped_share"][0]
    path.write_text(json.dumps(whole))
    with pytest.raises(ConfigError, match=r"rules\.json: figures\.local\.dropped_share: must be 2 numbers"):
        read_piece(tmp_path, RULES, TINY)
    path.write_text(json.dumps(whole)[:50])
    with pytest.raises(ConfigError, match=r"geometric_20-rules\.json: not the results of a piece"):
        read_piece(tmp_path, RULES, TINY)
    assert main(["--folder", str(tmp_path), "--only", "geometric_20-rules", "--seeds", "2"]) == 2


def test_settings_are_part_of_what_a_piece_is(monkeypatch: pytest.MonkeyPatch) -> None:
    piece, preset = Piece("ether_12", "droo", 0), Piece("ether_12", "ppo", 3)
    before = identity(piece, TINY)
    monkeypatch.setitem(plan.droo.SETTINGS, "lr", 0.5)
    assert {key for key, value in identity(piece, TINY).items() if value != before[key]} == {"settings"}
    settings = identity(preset, TINY)["settings"]
    assert (settings["training"]["env_steps"], settings["training"]["seed"]) == (400, 3)
    assert settings["training"]["envs_per_runner"] == 8  # as many as two runners of four have


def test_pieces_are_chosen_by_pattern() -> None:
    every = list(pieces(TINY))
    assert len({piece.name for piece in every}) == len(every) == len(plan.ENVIRONMENTS) * (2 + 2 * len(METHODS))
    assert {piece.method for piece in chosen_pieces(TINY, ["ether_12-*-1"])} == {method.name for method in METHODS}
    assert chosen_pieces(TINY, []) == every
    with pytest.raises(ConfigError, match="--only 'ether_13-"):
        chosen_pieces(TINY, ["ether_12-rules", "ether_13-*"])


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_no_policy_scores_below_the_piece_of_the_bound(tmp_path: Path) -> None:
    bound = Piece("geometric_20", plan.BOUND)
    run.run(tmp_path, TINY, [bound.name, RULES.name], Console(quiet=True))
    contents = [read_piece(tmp_path, piece, TINY) for piece in (bound, RULES)]
    assert all(contents)
    least, rules = (content["figures"] for content in contents if content)
    for figures in rules.values():
        assert (np.array(figures["score_mean_s"]) >= np.array(least[plan.BOUND]["score_mean_s"])).all()
