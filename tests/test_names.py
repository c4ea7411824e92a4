"""Names and descriptions are shown as they are: they break no page, no table, no terminal and no picture."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.environments import make_env, small_environment
from helpers.policies import PPO, kept
from rich.table import Table
from typer.testing import CliRunner

from offload_rllib.algorithms.run_counters import RunCounters
from offload_rllib.cli import app
from offload_rllib.commands.status import status
from offload_rllib.commands.terminal import console
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.config.files import written_at_once
from offload_rllib.config.loading import presets
from offload_rllib.config.names import as_markdown, one_line, plain_name
from offload_rllib.envs import rllib
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.reporting.network_picture import draw
from offload_rllib.runs.folder import write_results
from offload_rllib.runs.status import read_status
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.scenario import build_scenario
from offload_rllib.training.model_card import write_model_card

NASTY = "<img src=x onerror=alert(1)>\n# heading | `code` $\\frac$ [/x] **bold**"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ether_12-ppo-1", "ether_12-ppo-1"),
        ("Übung für später", "Übung für später"),
        ("soft_finish:0.5", "soft_finish:0.5"),
        ("=1+1", "_1+1"),
        ("@sum", "_sum"),
        ("-2", "_2"),
        ("a|b<c>&`d`$e", "a_b_c___d__e"),
        ("two\nlines\x1b[31m", "two_lines_[31m"),
    ],
)
def test_names_keep_what_is_text_and_no_markup(name: str, shown: str) -> None:
    assert plain_name(name) == shown


def test_descriptions_are_one_line_and_no_markup() -> None:
    assert one_line(" a\n\tb\x00 ") == "a b "
    shown = as_markdown(NASTY)
    assert "\n" not in shown
    for broken in ("<img", " | ", "`code`", "**bold**"):
        assert broken not in shown


def test_the_card_of_a_run_shows_a_description_and_is_not_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = load_environment(small_environment(description=NASTY))
    run = RunFolder.create("./a 'run' <b>", environment, load_policy_config(PPO | {"description": NASTY}), "")
    kept(run.path / "policy", make_env(small_environment()))
    text = write_model_card(run).read_text()
    assert "<img" not in text
    assert "\n# heading" not in text
    assert text.startswith("# a 'run' &lt;b&gt;\n")
    rows = [line for line in text.splitlines() if line.startswith(("| description", "| environment |"))]
    assert len(rows) == 2
    assert all(row.count("|") == 3 for row in rows)
    code = text.partition("```python\n")[2].partition("```")[0]
    exec(code, {})  # noqa: S102 - the promise is that this code works, whatever the run is called


def test_a_run_is_called_by_a_plain_name_in_tables(tmp_path: Path) -> None:
    kept(tmp_path / "=1+1|<b>" / "policy", make_env(small_environment()))
    assert [each.name for each in make_contenders([str(tmp_path / "=1+1|<b>")])] == ["_1+1__b_", "_1+1__b_ (sampled)"]


def test_the_terminal_takes_nothing_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title="[/title]")
    table.add_column("[/head]")
    table.add_row("[/x] [red]cell[/red] :smile:")
    console.print(table)
    console.print("[/y]")
    shown = capsys.readouterr().out
    for text in ("[/title]", "[/head]", "[/x] [red]cell[/red] :smile:", "[/y]"):
        assert text in shown


def test_status_shows_whatever_a_run_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "a [run] 'x'"
    run.mkdir()
    (run / "run.json").write_text('{"state": "failed [/x]"}')
    status(run)
    assert "failed [/x]" in capsys.readouterr().out
    (run / "run.json").write_text('{"state": "interrupted"}')
    assert read_status(run)["health"] == f"interrupted; continue: offload-rllib train --resume {shlex.quote(str(run))}"


@pytest.mark.usefixtures("ray_session")
def test_a_metric_takes_the_name_of_any_run() -> None:
    RunCounters("Übung-ether_12-ppo-1").update({})


@pytest.mark.usefixtures("ray_session")
def test_a_preset_of_any_name_hinders_no_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rllib, "presets", lambda kind: presets(kind) | {"Büro": Path("Büro.yaml")})
    names = rllib.register_environments()
    assert "ether_12" in names
    assert "Büro" not in names


def test_a_picture_has_the_format_of_its_name(tmp_path: Path) -> None:
    scenario = build_scenario(load_environment(small_environment()))
    for ending, begins in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        draw(scenario, tmp_path / f"x.{ending}", NASTY)
        assert (tmp_path / f"x.{ending}").read_bytes().startswith(begins)
    error = CliRunner().invoke(app, ["show", "ether_12", "--out", str(tmp_path / "x.gif")]).exception
    assert isinstance(error, ConfigError)
    assert "accepted endings: png, svg, pdf" in str(error)


def test_files_have_the_rights_that_the_user_gives(tmp_path: Path) -> None:
    for mask in (0o077, 0o027, 0o002):
        before = os.umask(mask)
        try:
            with written_at_once(tmp_path / f"{mask}") as partial:
                partial.write_text("x")
            folder, _ = write_results(tmp_path / f"folder{mask}", tmp_path, "", Path.exists)
        finally:
            assert os.umask(before) == mask
        assert (tmp_path / f"{mask}").stat().st_mode & 0o777 == 0o666 & ~mask
        assert folder.stat().st_mode & 0o777 == 0o777 & ~mask


def test_results_are_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        assert not (tmp_path / "results").exists(), "a process that is killed now leaves no half results"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_results(tmp_path / "results", tmp_path, "", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_file_gets_no_control_sequences_even_if_colours_are_forced(tmp_path: Path) -> None:
    """Jupyter sets FORCE_COLOR for what its cells start, and keeps every frame of a progress bar."""
    shown = subprocess.run(
        [sys.executable, "-m", "offload_rllib", "show", "manual_5"],
        cwd=tmp_path,
        env=os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-color"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "5 nodes" in shown
    assert "\x1b" not in shown


def test_a_terminal_that_knows_only_ascii_gets_question_marks_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_environment(description="Übung"), allow_unicode=True))
    done = subprocess.run(
        [sys.executable, "-m", "offload_rllib", "evaluate", "small.yaml", "local", "--episodes", "2"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "? " in done.stdout
    assert "summary: evaluations/small-1/summary.csv" in done.stdout
    assert (tmp_path / "evaluations" / "small-1" / "comparison.png").is_file()
