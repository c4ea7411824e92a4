"""The project's own results are made of the presets as they are, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from offload_rllib.compare.run import ComparisonFolder
from offload_rllib.config import ConfigError
from scripts.results.study import Study, check_folder, run_study, write_page


def test_changes_of_single_policies_reach_these_alone() -> None:
    study = Study(
        "part", "A part", "ether_12", ("ppo", "a2c"), question="?", own_changes={"ppo": ("algorithm.lr=2e-3",)}
    )
    trained = study.plan().trained
    assert trained["ppo_shared"].algorithm.lr == 2e-3
    assert trained["a2c_shared"] == replace(study, own_changes={}).plan().trained["a2c_shared"]
    with pytest.raises(ConfigError, match="part: own_changes of pp0, trained are ppo, a2c"):
        replace(study, own_changes={"pp0": ()}).plan()


def test_a_part_that_was_made_with_other_settings_is_refused(tmp_path: Path) -> None:
    study = Study("part", "A part", "ether_12", ("ppo",), question="?")
    ComparisonFolder.create(str(tmp_path / "part"), study.plan(), "test")
    check_folder([study], tmp_path)
    for changed, keys in (
        (replace(study, changes=("algorithm.lr=2e-3",)), "ppo_shared"),
        (replace(study, episodes=60), "episodes"),
        (replace(study, overrides=("workload.load.rho=1.0",)), "ether_12"),
    ):
        with pytest.raises(ConfigError, match=rf"part: made with other .* \({keys}\); remove it"):
            run_study(changed, tmp_path, Console())
        with pytest.raises(ConfigError, match=keys):
            check_folder([changed], tmp_path)
        with pytest.raises(ConfigError, match=keys):
            write_page(tmp_path / "page.md", "", [changed], tmp_path)


def test_the_page_names_the_parts_that_have_not_been_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write_page(page, "# Head\n", [Study("part", "A part", "ether_12", ("ppo",), question="?")], tmp_path)
    assert page.read_text(encoding="utf-8").endswith("that have not been run: `part`.\n")
