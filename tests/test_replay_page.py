"""A replay shows what the simulator did, ends at the figures of `evaluate`, and is a page that harms nobody."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.environments import at_once, make_env, small_environment
from helpers.policies import kept
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.interval_text import number
from offload_rllib.evaluation.metrics import SCORE
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.replay import page as pages
from offload_rllib.replay import record as records
from offload_rllib.replay import write as writing
from offload_rllib.replay.page import Page
from offload_rllib.replay.places import Places, spread
from offload_rllib.replay.record import Recording, record
from offload_rllib.replay.scores import running_score
from offload_rllib.replay.story import RESULT, Story, tell
from offload_rllib.replay.write import write_replay
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import EXPIRED, FINISHED, NONE, OPEN, QUEUE_FULL


def recorded(environment: dict[str, Any], policy: str = "shortest_finish", *, episode: int = 0) -> Recording:
    scenario = build_scenario(load_environment(environment))
    return record(scenario, make_contenders([policy])[0], seed=0, episode=episode)


@pytest.fixture(scope="module")
def shortest() -> tuple[Recording, Story]:
    recording = recorded(at_once())
    return recording, tell(recording)


@pytest.mark.parametrize("environment", [at_once(), small_environment()], ids=["arrival", "clocked"])
def test_a_node_holds_what_the_simulator_says(environment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, np.ndarray]] = []
    noted = records._Watch.after

    def after(watch: Any) -> None:
        noted(watch)
        seen.append((float(watch.env.state.episode[0]["now_s"]), watch.env.state.node[0]["tasks"].copy()))

    monkeypatch.setattr(records._Watch, "after", after)
    recording = recorded(environment, "random")
    stays = tell(recording).stays
    assert len(recording.moves) > 20
    clocked = environment["decisions"]["when"] == "interval"
    source = recording.scenario.arrays.link["source"]
    for time_s, tasks in seen[:-1]:  # at the end itself all stays end
        there = (stays["from_s"] <= time_s) & (time_s + 1e-9 < stays["to_s"])
        at = np.bincount(stays["node"][there], minlength=len(tasks))
        if clocked:  # those that are about to be sent are still there
            sent = recording.moves[recording.moves["sent_s"] == time_s]
            assert (at + np.bincount(source[sent["link"]], minlength=len(tasks)) == tasks).all()
        else:  # the task on offer is there, and may be about to leave
            assert (at <= tasks).all()
            assert (tasks - at).sum() <= 1


@pytest.mark.parametrize("policy", ["shortest_finish", "random", "local"])
def test_every_task_is_at_one_place_until_it_ends(policy: str) -> None:
    recording = recorded(at_once(), policy)
    story, log = tell(recording), recording.log
    assert story.guessed == 0
    covered_s = np.zeros(len(log))
    for parts in (story.legs, story.stays):
        np.add.at(covered_s, parts["task"], parts["to_s"] - parts["from_s"])
        assert (parts["from_s"] <= parts["to_s"]).all()
    assert np.allclose(covered_s, log["ended_s"] - log["created_s"], rtol=0, atol=1e-9)
    finished, unfinished = (int((log["outcome"] == outcome).sum()) for outcome in (FINISHED, OPEN))
    assert finished + unfinished + len(story.drops) == len(log)
    assert finished + len(story.drops) > 50
    for cause in (QUEUE_FULL, EXPIRED):
        assert (story.drops["cause"] == cause).sum() == (log["outcome"] == cause).sum()
    there = np.bincount(story.legs["task"][story.legs["what"] != RESULT], minlength=len(log))
    assert (there == log["hops"]).all()
    back = np.bincount(story.legs["task"][story.legs["what"] == RESULT], minlength=len(log))
    done = log["outcome"] == FINISHED
    assert (back[done] == log["hops"][done]).all()


def test_lost_tasks_and_failed_nodes_are_shown_where_they_were() -> None:
    environment = at_once(
        failures={
            "tasks": "returned",
            "laws": [{"time_to_failure_s": {"exponential": 15}, "time_to_repair_s": {"exponential": 4}}],
        },
        links={"kind": "fixed", "rate_bps": 1e6, "latency_s": 0.05, "loss_probability": 0.2},
    )
    recording = recorded(environment, "random")
    story, log = tell(recording), recording.log
    covered_s = np.zeros(len(log))
    for parts in (story.legs, story.stays):
        np.add.at(covered_s, parts["task"], parts["to_s"] - parts["from_s"])
    assert np.allclose(covered_s, log["ended_s"] - log["created_s"], rtol=0, atol=1e-6)
    assert len(recording.outages) > 2
    assert set(story.drops["cause"]) >= {4}
    on_links = story.drops[story.drops["cause"] == 4]
    assert (on_links["link"] >= 0).all()
    assert ((story.drops["node"] >= 0) != (story.drops["link"] >= 0)).all()


def test_the_running_score_ends_at_what_evaluate_prints(tmp_path: Path) -> None:
    environment = at_once(score={"weights": {"type_0": 3.0, "type_1": 1.0}}, warmup_s=5, drain_s=5)
    folder = tmp_path / "trained" / "policy"
    kept(folder, make_env(environment))
    policies = ["shortest_finish", str(folder)]
    shown = write_replay(tmp_path / "r.html", policies, environment, seed=7, episode=1)
    contenders = [c for c in make_contenders(policies) if c.deterministic]
    expected = evaluate(load_environment(environment), contenders, episodes=2, seed=7)
    assert set(shown.figures) == {contender.name for contender in contenders}
    for contender in contenders:
        score = float(expected.of(contender.name, SCORE)[..., 1].item())
        assert number(shown.figures[contender.name][SCORE]) == number(score)
        recording = record(build_scenario(load_environment(environment)), contender, seed=7, episode=1)
        times_s, means_s = running_score(recording)
        assert means_s[-1] == pytest.approx(score, rel=1e-9)
        assert (np.diff(times_s) >= 0).all()
        data = Page([recording], [tell(recording)], "", "").data(40.0, [])
        assert data["policies"][0]["final_score"] == number(score)
        assert data["policies"][0]["score"]["mean"][-1] == pytest.approx(score, rel=1e-4)
        assert number(score) in data["final"][0]


def test_a_log_that_is_cut_off_is_refused(shortest: tuple[Recording, Story]) -> None:
    recording, _ = shortest
    parts = {**vars(recording), "log": recording.log[: len(recording.log) // 2]}
    with pytest.raises(ConfigError, match=r"'shortest_finish' is not that of the whole episode: \d+ tasks"):
        running_score(Recording(**parts))


def test_different_episodes_are_not_shown_side_by_side(shortest: tuple[Recording, Story]) -> None:
    other = recorded(at_once(), "local", episode=1)
    with pytest.raises(ConfigError, match="'shortest_finish' and 'local' did not play the same episode"):
        Page([shortest[0], other], [shortest[1], tell(other)], "", "")


def test_names_cannot_leave_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nasty = "</script><b>@@SCRIPT@@<!-- &amp;"
    environment = at_once(description=nasty)
    for node in environment["topology"]["nodes"]:
        node["type"] = "x"
    monkeypatch.setattr(pages, "one_line", lambda text: text if text == nasty else f"{text}{nasty}")
    plain = write_replay(tmp_path / "r.html", ["local"], environment)
    text = plain.path.read_text()
    parts = (Path(pages.__file__).parent / "page" / "replay.html").read_text()
    assert text.count("</script>") == parts.count("</script>") == 2
    assert "<b>" not in text
    assert "@@SCRIPT@@" in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data
    assert not set("<>&") & set(data[1])


def test_a_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    text = write_replay(tmp_path / "r.html", ["local", "random"], at_once()).path.read_text()
    assert not re.search(r"https?:|//[a-z]|\bsrc=|\bhref=|@import|url\(|innerHTML|\beval\b", text)
    assert "default-src 'none'" in text


def test_what_does_not_fit_is_cut_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_replay(tmp_path / "whole.html", ["local", "random"], at_once())
    assert whole.shown_s == 40.0
    assert whole.notes == ()
    monkeypatch.setattr(pages, "MOST_BYTES", whole.size_bytes - 2000)
    path = tmp_path / "r.html"
    env = tmp_path / "env.yaml"
    env.write_text(yaml.safe_dump(at_once()))
    result = CliRunner().invoke(app, ["replay", "local", "random", "--env", str(env), "--out", str(path)])
    assert result.exit_code == 0, result.output
    assert re.search(r"note: Only the first [\d.]+ s of the 40 s are shown", result.output)
    assert "Only the first " in path.read_text()
    assert path.stat().st_size <= pages.MOST_BYTES
    monkeypatch.setattr(pages, "MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match="the network alone takes"):
        write_replay(tmp_path / "none.html", ["local"], at_once())
    assert not (tmp_path / "none.html").exists()


def test_until_shows_the_beginning(tmp_path: Path) -> None:
    shown = write_replay(tmp_path / "r.html", ["local"], at_once(), until_s=10)
    whole = write_replay(tmp_path / "w.html", ["local"], at_once())
    assert shown.shown_s == 10
    assert shown.notes[0].startswith("The first 10 s of 40 s")
    assert shown.figures == whole.figures
    assert shown.size_bytes < whole.size_bytes


def test_invalid_input_is_one_message_and_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "r.html"
    other = kept(tmp_path / "other", make_env(at_once(decisions={"when": "arrival", "max_hops": 2})))
    assert other
    kept(tmp_path / "later", make_env(at_once()))
    described = json.loads((tmp_path / "later" / "policy.json").read_text())
    (tmp_path / "later" / "policy.json").write_text(json.dumps(described | {"format": 99}))
    larger = at_once()
    larger["topology"]["nodes"].append({"name": "e", "instructions_per_second": 1e6, "client": True})
    larger["topology"]["links"] += [["e", "a"], ["e", "b"], ["e", "c"], ["e", "d"]]
    for policies, environment, more, said in (
        (["runs/none"], at_once(), {}, r"runs/none: no such folder"),
        (["shortest_finsh"], at_once(), {}, r"'shortest_finsh' is neither .*shortest_finish"),
        ([str(tmp_path / "other")], larger, {}, r"actions|observation"),
        ([str(tmp_path / "later")], at_once(), {}, "a policy of format 99; this version reads format"),
        (["local", "local"], at_once(), {}, "'local' is given twice"),
        (["local", "random", "round_robin"], at_once(), {}, "shows 1 or 2 policies side by side; given: 3"),
        (["local"], at_once(), {"until_s": 0}, r"--until 0: accepted: above 0, up to horizon_s \(40 s\)"),
        (["local"], at_once(), {"until_s": 41}, r"--until 41: accepted"),
        (["local"], at_once(workload=quiet()), {}, "no task came in it"),
    ):
        with pytest.raises(ConfigError, match=said):
            write_replay(page, policies, environment, **more)
    with pytest.raises(ConfigError, match=r"r\.txt: accepted endings: \.html, \.gif"):
        write_replay(tmp_path / "r.txt", ["local"], at_once())
    with pytest.raises(ConfigError, match="no such folder"):
        write_replay(tmp_path / "none" / "r.html", ["local"], at_once())
    monkeypatch.setattr(writing, "MOST_NODES", 3)
    with pytest.raises(ConfigError, match="4 nodes, and a page shows at most 3 that can be distinguished"):
        write_replay(page, ["local"], at_once())
    assert not page.exists()


def quiet() -> dict[str, Any]:
    return small_environment()["workload"] | {"load": {"tasks_per_second_per_client": 1e-9}}


def test_a_file_is_overwritten_only_by_force(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    page.write_text("mine")
    with pytest.raises(ConfigError, match=r"r\.html: exists and is not overwritten; .* --force"):
        write_replay(page, ["local"], at_once())
    assert page.read_text() == "mine"
    write_replay(page, ["local"], at_once(), force=True)
    assert page.read_text().startswith("<!doctype html>")


def test_nodes_at_one_place_are_drawn_apart() -> None:
    environment = at_once()
    for i, node in enumerate(environment["topology"]["nodes"]):
        node["position_m"] = [0.0, 0.0] if i < 2 else [10.0 * i, 5.0]
    places = spread(build_scenario(load_environment(environment)).network)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(len(places))
    assert apart.min() > 0.2
    assert ((places >= 0) & (places <= 1)).all()


def test_nodes_that_move_are_shown_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_environment("move_20", ["horizon_s=60", "warmup_s=5", "drain_s=5"])
    seen: list[tuple[float, np.ndarray, np.ndarray]] = []
    noted = records._Watch.after

    def after(watch: Any) -> None:
        noted(watch)
        state, movers = watch.env.state, watch.env.state.moving[0]
        looked_s = float(state.episode[0]["moves"] - 1)  # once a second
        positions = np.stack([movers["x_m"], movers["y_m"]], axis=1)
        seen.append((looked_s, positions, watch.arrays.link["destination"][movers["link"]]))

    monkeypatch.setattr(records._Watch, "after", after)
    recording = record(build_scenario(config), make_contenders(["shortest_finish"])[0], seed=0, episode=0)
    places = Places(recording)
    movers = recording.scenario.arrays.moving["node"]
    assert places.moving == movers.tolist()
    # All that is drawn is relative to one rectangle, around all places at all times.
    still = np.array([node.position_m for node in recording.scenario.network.nodes])[14:]
    corners = np.concatenate([still, *(positions for _, positions, _ in seen)])
    low, size = corners.min(axis=0), np.ptp(corners, axis=0)
    assert places.still[14:] == pytest.approx((still - low) / size)
    columns = {track["node"]: track for track in places.columns(60.0, 0.001, 1000)}
    changed = 0
    for looked_s, positions, access in seen[5::20]:
        shown, attached = places.at(looked_s)
        assert shown[movers] == pytest.approx((positions - low) / size, abs=1e-9)
        assert attached[movers].tolist() == access.tolist()
        assert (attached[14:] == NONE).all()
        changed += int((access != seen[0][2]).sum())
        for n, place in zip(movers.tolist(), shown[movers], strict=True):
            row = columns[n]["time"].index(round(1000 * looked_s))
            assert [columns[n][axis][row] for axis in "xy"] == np.rint(1000 * place).tolist()
    assert changed > 3, "handovers"
    assert len(columns[0]["time"]) <= 62
