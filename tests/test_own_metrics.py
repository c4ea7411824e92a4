"""Metrics of the user: functions of an episode's figures, in evaluations, comparisons and reports."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers.environments import small_environment
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders

CODE = """
def tail_ratio(figures):
    return figures["score_p95_s"] / figures["score_p50_s"]

def spread(figures):
    return figures["score_p95_s"] - figures["score_p50_s"]

def nothing(figures):
    return None

def fails(figures):
    return figures["no such figure"]

def score_mean_s(figures):
    return 0.0

def episode(figures):
    return 0.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with an environment and a module of metrics."""
    (tmp_path / "env.yaml").write_text(yaml.safe_dump(small_environment(description="small")))
    (tmp_path / "own_figures.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_figures", raising=False)
    return tmp_path


def run(*command: str) -> str:
    """Run a command; return what it prints."""
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_an_evaluation_prints_and_keeps_it(folder: Path) -> None:
    out = run(
        *("evaluate", "env.yaml", "local", "random", "--episodes", "3", "--out", "results"),
        *("--metric", "own_figures:tail_ratio", "--metric", "late_share"),
    )
    rows = pd.read_csv(folder / "results" / "episodes.csv")
    expected = rows["score_p95_s"] / rows["score_p50_s"]
    assert rows["tail_ratio"].to_numpy() == pytest.approx(expected.to_numpy())
    assert "tail_ratio" in set(pd.read_csv(folder / "results" / "summary.csv")["metric"])
    table = out[out.index("metrics") :]
    assert "tail_ratio" in table
    assert "finished late, %" in table
    assert f"{expected[rows['policy'] == 'local'].mean():.1f}" in table


@pytest.mark.usefixtures("ray_session")
def test_a_comparison_keeps_it_and_a_report_runs_no_code_of_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(
        *("compare", "local", "random", "--env", "env.yaml", "--episodes", "2", "--name", "kept", "--workers", "1"),
        *("--metric", "own_figures:tail_ratio"),
    )
    kept = folder / "comparisons" / "kept"
    rows = pd.read_csv(kept / "episodes.csv")
    assert rows["tail_ratio"].to_numpy() == pytest.approx((rows["score_p95_s"] / rows["score_p50_s"]).to_numpy())
    assert (kept / "figures" / "tail_ratio.png").is_file()

    run("report", str(kept), "--out", "another", "--metric", "own_figures:spread")
    again = pd.read_csv(folder / "another" / "summary.csv").query("metric == 'spread' and policy == 'local'")
    local = rows[rows["policy"] == "local"]
    assert again["mean"].item() == pytest.approx((local["score_p95_s"] - local["score_p50_s"]).mean())

    (folder / "own_figures.py").write_text("raise RuntimeError('this code must not run')")
    monkeypatch.delitem(sys.modules, "own_figures")
    run("report", str(kept), "--out", "the_same")
    assert (folder / "the_same" / "figures" / "tail_ratio.png").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_figures:absent", r"own_figures has no function 'absent'"),
        ("no_such_module:metric", r"importing no_such_module failed"),
        ("own_figures:score_mean_s", r"'score_mean_s' is a metric already; rename the function"),
        ("own_figures:episode", r"'episode' is a column already; rename the function"),
        ("own_figures:nothing", r"own_figures:nothing: must return a number for an episode, not None"),
        ("own_figures:fails", r"own_figures:fails raised KeyError\('no such figure'\) \(.*own_figures.py, line 12\)"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_is_no_metric_is_refused(name: str, message: str) -> None:
    result = CliRunner().invoke(app, ["evaluate", "env.yaml", "local", "random", "--episodes", "2", "--metric", name])
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise result.exception
    assert not Path("evaluations").exists()


@pytest.mark.usefixtures("folder")
def test_two_functions_of_one_name_are_refused() -> None:
    Path("other_figures.py").write_text("def spread(figures):\n    return 1.0\n")
    comparison = evaluate(load_environment("env.yaml"), make_contenders(["local"]), episodes=2)
    with pytest.raises(ConfigError, match=r"two metrics are called 'spread'"):
        comparison.with_own_metrics(["own_figures:spread", "other_figures:spread"])
