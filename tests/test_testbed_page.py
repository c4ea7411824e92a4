"""The page of a testbed says what was found, needs nothing else, and shows names as they are."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.testbed_logs import made_up, written
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError
from offload_rllib.reporting.testbed_page import write_testbed_report
from offload_rllib.testbed.analysis.log import SIMULATOR, TESTBED

HOSTILE = "<script>alert(1)</script>$x$&"


def log(factor: float = 1.0) -> pd.DataFrame:
    """Return a log of two policies, one with a hostile name, whose testbed is slower by a factor."""
    responses = [1.0 + 0.01 * i for i in range(60)]
    sides = {TESTBED: factor, SIMULATOR: 1.0}
    return pd.concat(
        [
            made_up([slower * each * r for r in responses], side=side, policy=policy).assign(service_s=slower * each)
            for side, slower in sides.items()
            for policy, each in (("local", 2.0), (HOSTILE, 1.0))
        ]
    )


def report(folder: Path, tasks: pd.DataFrame, record: dict[str, Any] | None = None) -> tuple[str, str]:
    """Return the page and the text of its verdict."""
    written(tasks, folder / "tasks.parquet")
    if record is not None:
        (folder / "testbed.json").write_text(json.dumps(record))
    _, _, paths = write_testbed_report([folder], folder)
    page = paths["page"].read_text()
    (verdict,) = re.findall(r"<p class='verdict.*?'>(.*?)</p>", page)
    return page, html.unescape(verdict)


def test_the_page_stands_alone_and_shows_names_as_text(tmp_path: Path) -> None:
    page, _ = report(tmp_path, log(), {"environment": HOSTILE, "valid": True, "plays": []})
    assert HOSTILE not in page
    assert html.escape(HOSTILE) in page
    assert not re.search(r"<script|https?://|url\(|<link|@import", page)
    pictures = re.findall(r"<img [^>]*src='(.{30})", page)
    assert len(pictures) == 2
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in pictures)
    assert "default-src 'none'" in page


def test_agreement_is_said_and_every_target_is_there(tmp_path: Path) -> None:
    page, verdict = report(tmp_path, log(), {"valid": True, "plays": []})
    assert verdict == "All 6 targets are met."
    assert re.findall(r"<td>(met|missed|not judged)</td>", page) == ["met"] * 6
    for limit in ("at most 5 %", "at most 10 %", "at most 1 points", "at most 0.1", "at least 0.9", "at most 0"):
        assert f"<td>{limit}</td>" in page


def test_what_is_missed_is_said_with_the_part_that_it_comes_from(tmp_path: Path) -> None:
    page, verdict = report(tmp_path, log(1.2))
    assert "3 of 6 targets are missed: mean response time; 95th percentile of the response time; Kolmogorov" in verdict
    assert "The largest difference of a part is service: +400 ms (local, load 0.5)." in verdict
    assert "There is no testbed.json" in verdict
    assert "<td>20 %</td>" in page
    assert (tmp_path / "differences.csv").read_text().splitlines()[0].startswith("load,policy,tasks_testbed")
    parts: Any = pd.read_csv(tmp_path / "parts.csv").set_index(["policy", "part"])["difference_s"]
    assert parts["local", "service_s"] == pytest.approx(0.4)


def test_a_testbed_that_does_not_count_is_said_first(tmp_path: Path) -> None:
    plays = [
        {"policy": "local", "episode": 0, "valid": False, "reasons": ["too slow <b>"]},
        {
            "policy": "x",
            "episode": 0,
            "valid": True,
            "decision_ms": {"p99": 3.25},
            "nodes": {"a": {"resident_bytes": 9e7, "clock_offset_s": -0.0125}, "b": {"clock_offset_s": 0.001}},
            "notes": ["node a: its process has ended at 48.3 s", *["<i>"] * 30],
        },
    ]
    page, verdict = report(tmp_path, log(), {"valid": False, "plays": plays})
    assert verdict.startswith("The testbed does not count: local, episode 0: too slow <b>. All 6")
    assert "<b>" not in page
    assert "<td>3.25</td>" in page
    assert "<td>90</td>" in page
    assert "<td>12.5</td>" in page, "clocks that differ are shown"
    assert "<p>Note: x, episode 0: node a: its process has ended at 48.3 s.</p>" in page
    assert "<i>" not in page
    assert "<p>11 more notes are in testbed.json.</p>" in page


@pytest.mark.parametrize("content", [{"plays": "x"}, {"plays": [1]}, {"plays": [{"nodes": 5, "decision_ms": "y"}]}])
def test_a_record_of_another_form_does_no_harm(content: dict[str, Any], tmp_path: Path) -> None:
    _, verdict = report(tmp_path, log(), content)
    assert verdict == "All 6 targets are met."


def test_one_policy_has_no_order(tmp_path: Path) -> None:
    tasks = log()
    page, verdict = report(tmp_path, tasks[tasks["policy"] == "local"], {"plays": []})
    assert verdict == "All 4 targets are met."
    assert page.count("not judged") == 2
    assert "Which policy is better" not in page


def test_the_verb_writes_the_files_and_prints_the_verdict(tmp_path: Path) -> None:
    written(log(1.2), tmp_path / "tasks.parquet")
    done = CliRunner().invoke(
        app, ["testbed-report", str(tmp_path), "--out", str(tmp_path / "out")], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "3 of 6 targets are missed" in done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "testbed.html", "differences.csv", "parts.csv", "rankings.csv", "pairs.csv",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="none: no such file or folder"):
        CliRunner().invoke(app, ["testbed-report", str(tmp_path / "none")], catch_exceptions=False)
    assert not (tmp_path / "none").exists()


def test_a_log_that_does_not_fit_makes_no_folder(tmp_path: Path) -> None:
    written(log().drop(columns="work"), tmp_path / "tasks.parquet")
    with pytest.raises(ConfigError, match="column 'work' is missing"):
        CliRunner().invoke(
            app, ["testbed-report", str(tmp_path), "--out", str(tmp_path / "out")], catch_exceptions=False
        )
    assert not (tmp_path / "out").exists()
