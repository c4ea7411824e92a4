"""Tasks of the suite for other simulators, and their responses beside the exact ones."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.suites import TASKS, suite_in, write_small_suite
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.suite.beside import beside, export
from offload_rllib.suite.conformance import exact_of
from offload_rllib.suite.exact import exact_responses
from offload_rllib.suite.exchange import RESPONSES, read_links, read_nodes, read_tasks
from offload_rllib.suite.scenarios import digest, places


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["suite", *arguments])


def write_responses(path: Path, response_s: np.ndarray, outcomes: list[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(RESPONSES)
        for task, (value, outcome) in enumerate(zip(response_s, outcomes, strict=True)):
            writer.writerow([task, repr(float(value)) if outcome == "finished" else "", outcome])


@pytest.mark.parametrize(("name", "rule"), [("ether_12", "recorded"), ("queue_14/ps-0.3", "always_cloud")])
def test_what_is_exported_has_the_exact_responses(tmp_path: Path, name: str, rule: str) -> None:
    (place,) = places([name])
    export(place, tmp_path, rule)
    nodes = read_nodes(tmp_path / "nodes.csv")
    links = read_links(tmp_path / "links.csv", nodes)
    found = exact_responses(nodes, links, read_tasks(tmp_path / "tasks.csv", nodes))
    exact = exact_of(place, rule)
    assert found.outcome == exact.outcome
    assert np.array_equal(found.response_s, exact.response_s, equal_nan=True)
    about = json.loads((tmp_path / "exchange.json").read_text())
    assert (about["point"], about["destinations"], about["tasks"]) == (place.name, rule, len(found.outcome))
    for file, sha in about["sha256"].items():
        assert digest(tmp_path / file) == sha
    assert fingerprint(load_environment(tmp_path / "environment.yaml")) == place.point.fingerprint


def test_responses_are_compared_with_the_exact_ones(tmp_path: Path) -> None:
    (place,) = places(["ether_12"])
    exact = exact_of(place)
    write_responses(tmp_path / "same.csv", exact.response_s, exact.outcome)
    late_s, outcomes = exact.response_s.copy(), list(exact.outcome)
    done = np.flatnonzero(np.isfinite(late_s))
    late_s[done] += 0.01
    late_s[done[0]] += 1.0
    outcomes[done[1]] = "unfinished"
    write_responses(tmp_path / "late.csv", late_s, outcomes)
    files = [("same", tmp_path / "same.csv"), ("late", tmp_path / "late.csv")]
    ours, same, late = beside(place, files, {"late": 0.5})
    for one in (ours, same):
        assert one.differences.passed
        assert one.differences.mean_s == one.differences.exact_mean_s == pytest.approx(np.nanmean(exact.response_s))
    assert ours.tasks_per_cpu_s > 1000
    assert math.isnan(same.tasks_per_cpu_s)
    assert late.tasks_per_cpu_s == 2 * len(exact.outcome)
    assert not late.differences.passed
    assert late.differences.other_outcomes == 1
    assert late.differences.largest_difference_s == pytest.approx(1.01)
    assert late.differences.mean_difference_s == pytest.approx(0.01 + 1.0 / (len(done) - 1))
    with pytest.raises(ConfigError, match="names must differ; given: offload-rllib, a, a"):
        beside(place, [("a", tmp_path / "same.csv")] * 2, {})


def test_the_commands_export_and_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_suite(tmp_path / "suite")
    monkeypatch.chdir(tmp_path)
    with suite_in(tmp_path / "suite", monkeypatch):
        assert invoke("export", "small_4", "out").exit_code == 0
        assert (tmp_path / "out" / "tasks.csv").read_text() == TASKS
        assert "is not overwritten" in invoke("export", "small_4", "out").exception.args[0]
        exact = exact_of(*places())
        write_responses(tmp_path / "theirs.csv", exact.response_s, exact.outcome)
        shown = invoke("compare", "small_4", "sim=theirs.csv", "--cpu-seconds", "sim=0.001")
        assert shown.exit_code == 0, shown.output
        assert "3,000" in shown.output
        for arguments, message in (
            (["small_4", "theirs.csv", "--cpu-seconds", "sim=1"], "no such name; accepted: theirs"),
            (["small_4", "theirs.csv", "--cpu-seconds", "theirs=0"], "accepted: NAME=SECONDS with a number above 0"),
            (["small_4", "theirs.csv", "--rule", "random"], "destinations depend on the state of the network"),
            (["small_4", "none.csv"], "none.csv: cannot be read"),
        ):
            assert message in str(invoke("compare", *arguments).exception)


def test_one_point_must_be_named(tmp_path: Path) -> None:
    assert "has 6 points; accepted: one of QUEUE-14/fifo-0.3" in str(
        invoke("export", "queue_14", str(tmp_path / "out")).exception
    )
