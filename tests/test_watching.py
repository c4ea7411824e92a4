"""`watch` shows what a run or a sweep has written, to browsers on this machine alone, and changes nothing."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.environments import at_once, make_env
from helpers.policies import kept
from helpers.watching import EVALUATED, finished_run, log_rows, running_sweep

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.interval_text import with_half_width
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.replay.write import write_replay
from offload_rllib.reporting.report import write_summary
from offload_rllib.rollout import callbacks
from offload_rllib.sweep import trial
from offload_rllib.watching import latest, logs
from offload_rllib.watching.folder import watched
from offload_rllib.watching.server import HOST, Server, page


@contextmanager
def serving(folder: Path, replay: Callable[[], bytes] | None = None) -> Iterator[Server]:
    with Server(watched(folder), 0, replay) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: Server, path: str, **how: Any) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(server.url + path, **how)  # noqa: S310 - our own address
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own address
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def test_the_keys_of_a_log_are_those_that_training_writes() -> None:
    assert logs.FIGURES[1] == callbacks.PREFIX
    assert (trial.ENV_STEPS, trial.VALIDATION) == (logs.STEPS, logs.VALIDATION)


def test_a_run_is_served_with_progress_curves_health_and_its_evaluation(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    evaluation = evaluate(load_environment(at_once()), make_contenders(EVALUATED), episodes=3)
    (run / "evaluation").mkdir()
    write_summary(evaluation, EVALUATED[0], run / "evaluation" / "summary.csv")
    with serving(run) as server:
        status, content, headers = ask(server, "data.json")
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    assert "connect-src 'self'" in headers["Content-Security-Policy"]
    data = json.loads(content)
    assert (data["kind"], data["name"], data["state"], data["health"]) == ("run", "mine", "finished", "finished")
    assert data["progress"] == {"share": 0.5, "text": "240 of 480 environment steps; 100 per second, 0 min left"}
    score, dropped = data["curves"]
    assert score["lines"] == [{"name": "in training", "x": [100.0, 200.0], "y": [9.0, 7.5]}], (
        "a row without is left out"
    )
    assert dropped["lines"][0]["y"] == [20.0, 10.0], "shares are shown in per cent"
    assert {level["name"] for level in score["levels"]} == set(EVALUATED[1:])
    table = data["table"]
    shown = {row["cells"][0]: row["cells"] for row in table["rows"]}
    assert set(shown) == set(EVALUATED)
    for policy, cells in shown.items():
        assert cells[1] == with_half_width(evaluation.mean(policy, "score_mean_s"))
        assert cells[3] == with_half_width(evaluation.mean(policy, "dropped_share"), 100.0)
    assert [row["strong"] for row in table["rows"]] == [row["cells"][0] == EVALUATED[0] for row in table["rows"]]
    assert shown[EVALUATED[0]][4] == ""
    facts = dict(data["facts"])
    assert facts["runners"] == "2 all, 1 healthy"
    assert facts["mean score, s"] == "7.5"
    assert "finished late, %" not in facts, "not known yet"


def test_a_run_that_works_is_followed_by_what_it_adds(tmp_path: Path) -> None:
    run = finished_run(tmp_path, state="training", pid=os.getpid())
    log = run / "tune" / "trial" / "result.json"
    found = watched(run)
    assert found.data()["health"] == "works with 1 of 2 runners"
    with log.open("a") as file:
        file.write(log_rows([(300, 6.0, 0.1)]) + '{"timesteps_total": 400, "env_ru')
        file.flush()
        assert found.data()["curves"][0]["lines"][0]["y"] == [9.0, 7.5, 6.0], "an incomplete row waits"
        file.write('nners": {"offload": {"score_mean_s": 5.0}}}\n')
    assert found.data()["curves"][0]["lines"][0]["y"] == [9.0, 7.5, 6.0, 5.0]
    log.write_text(log_rows([(100, 8.0, 0.1)]))
    assert found.data()["curves"][0]["lines"][0]["y"] == [8.0], "a log that was shortened is read again"


def test_long_logs_become_means_of_groups(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    rows = [(step, float(step % 2), 0.0) for step in range(10_000)]
    (run / "tune" / "trial" / "result.json").write_text(log_rows(rows))
    (line,) = watched(run).data()["curves"][0]["lines"]
    assert len(line["x"]) == len(line["y"]) == logs.MOST_POINTS
    assert [line["x"][0], line["x"][-1]] == pytest.approx([16.5, 9983.0])
    assert line["y"] == pytest.approx([0.5] * logs.MOST_POINTS, abs=0.02)


def test_a_sweep_is_served_with_its_leaderboard(tmp_path: Path) -> None:
    sweep = running_sweep(tmp_path)
    with serving(sweep) as server:
        data = json.loads(ask(server, "data.json")[1])
    assert (data["kind"], data["state"]) == ("sweep", "training")
    assert data["health"].startswith("its process is gone; continue: offload-rllib tune --resume ")
    assert data["progress"]["text"] == "3 of 6 trials have ended; 5 have begun"
    table = data["table"]
    assert table["columns"][:3] == ["trial", "policy.algorithm.lr", "mean score, s"]
    rows = [row["cells"] for row in table["rows"]]
    assert [(row[0], row[2], row[-1]) for row in rows] == [
        ("trial_0001", "5", "finished"),
        ("trial_0000", "6", "finished"),
        ("trial_0002", "4", "running"),
        ("trial_0004", "", "running"),
        ("trial_0003", "3", "failed"),
    ]
    assert rows[0][1] == "0.002"
    assert [row["strong"] for row in table["rows"]] == [True, False, False, False, False]
    assert data["curves"][0]["lines"][0] == {"name": "trial_0001", "x": [50.0, 100.0], "y": [8.0, 5.0]}


def test_with_several_metrics_the_front_is_marked(tmp_path: Path) -> None:
    sweep = running_sweep(tmp_path, metrics=["score_mean_s", {"name": "fairness", "mode": "max"}])
    table = watched(sweep).data()["table"]
    strong = {row["cells"][0] for row in table["rows"] if row["strong"]}
    assert strong == {"trial_0000", "trial_0001"}, "trial_0000 is fairer, trial_0001 has the lower score"


def test_only_the_page_and_its_data_are_served_and_only_read(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with serving(run) as server:
        assert server.server_address[0] == HOST == "127.0.0.1"
        assert ask(server, "")[:2] == (200, page().encode())
        assert ask(server, "", method="HEAD")[:2] == (200, b"")
        host, port = server.server_address[:2]
        with socket.create_connection((host, port), timeout=10) as raw:  # clients leave what follows the head unread
            raw.sendall(f"HEAD / HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n".encode())
            assert b"".join(iter(lambda: raw.recv(65536), b"")).endswith(b"\r\n\r\n")
        for path in ("run.json", "../run.json", "data.json/..", "%2e%2e/run.json"):
            assert ask(server, path)[0] == 404, path
        for method in ("POST", "PUT", "DELETE"):
            assert ask(server, "data.json", method=method, data=b"{}")[0] == 501, method
        assert ask(server, "data.json", headers={"Host": "other.example"})[0] == 403
        assert ask(server, "data.json", headers={"Host": f"localhost:{server.server_address[1]}"})[0] == 200
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_the_latest_checkpoint_is_replayed_once_beside_the_best_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path, state="training", pid=os.getpid())
    assert watched(run).data()["replay"] == "", "nothing is saved yet"
    (run / "environment.yaml").write_text(yaml.safe_dump(at_once()))
    status = json.loads((run / "status.json").read_text())
    status["checkpoint"] = {"env_steps": 240, "time": status["time"]}
    (run / "status.json").write_text(json.dumps(status))
    assert watched(run).data()["replay"] == "Replay of the latest checkpoint beside shortest_finish"
    asked = []

    def playing(path: Path, policies: list[Any], *rest: Any) -> Any:
        asked.append(policies)
        return write_replay(path, policies, *rest)

    monkeypatch.setattr(latest, "write_replay", playing)
    with serving(run, latest.LatestReplay(run).page) as server:
        status, content, headers = ask(server, "replay.html")
        assert headers["Content-Type"].startswith("text/plain")
        assert b"this run has no checkpoint yet" in content
        kept(run / "policy", make_env(at_once()))
        first = ask(server, "replay.html")
        assert first[0] == 200
        assert first[2]["Content-Type"].startswith("text/html")
        assert first[1].startswith(b"<!doctype html>")
        assert ask(server, "replay.html")[1] == first[1]
        assert [[str(name) for name in names] for names in asked] == [[str(run / "policy"), "shortest_finish"]]
        evaluation = evaluate(load_environment(at_once()), make_contenders(["local", "random"]), episodes=3)
        (run / "evaluation").mkdir()
        write_summary(evaluation, "local", run / "evaluation" / "summary.csv")
        ask(server, "replay.html")
        assert asked[1][1] == "random", "the rule of the evaluation"
        before = ask(server, "replay.html")[1]
        os.utime(run / "policy", (1, 1))
        kept(run / "policy", make_env(at_once()), draw=3)
        assert ask(server, "replay.html")[1] != before, "a later checkpoint is played anew"
        assert len(asked) == 3
    with serving(run) as server:
        assert ask(server, "replay.html")[0] == 404


def test_names_reach_the_page_as_text(tmp_path: Path) -> None:
    script = page()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)
    assert "@@" not in script
    assert not re.search(r'(?:src|href)="https?:', script)
    nasty = "<img src=x onerror=alert(1)>"
    run = finished_run(tmp_path, name=nasty, description=nasty)
    data = watched(run).data()
    assert data["about"].startswith(nasty)
    assert nasty.encode() not in page().encode()


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none: no such folder"):
        watched(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"neither run\.json nor sweep\.json is in it; accepted: the folder of a"):
        watched(tmp_path)
    run = finished_run(tmp_path)
    found = watched(run)
    (run / "tune" / "trial" / "result.json").write_text("[]\n" * 20)
    assert found.update()["error"].endswith("row 1 is not an object")
    (run / "tune" / "trial" / "result.json").unlink()
    os.mkfifo(run / "tune" / "trial" / "result.json")
    assert "not a regular file" in found.update()["error"]


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    found = watched(finished_run(tmp_path))
    with Server(found, 0) as first:
        port = first.server_address[1]
        with pytest.raises(ConfigError, match=rf"--port {port}: cannot listen there: .*; choose another, or 0"):
            Server(found, port)
