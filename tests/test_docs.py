"""The documentation is that of this code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from offload_rllib.cli import app
from offload_rllib.envs.observation import HERE_FEATURES, ROW_FEATURES, SELF_FEATURES, TASK_FEATURES
from offload_rllib.envs.parallel import OffloadParallelEnv

CHECKOUT = Path(__file__).parents[1]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def test_the_configuration_page_is_that_of_the_schema() -> None:
    script = CHECKOUT / "scripts" / "write_configuration_page.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True, timeout=100)


def anchors(page: Path) -> set[str]:
    """Return the fragments by which GitHub addresses the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#\s]*)(#[^)\s]+)?", page.read_text()):
        if "://" in target:
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), target
        if heading and linked.suffix == ".md":
            assert heading in anchors(linked), f"{target}{heading}"


# Words by which a page would speak of verbs, and of what the scripts launch.
SPOKEN_OF = {
    "tune": "sweep",
    "compare": "compar",
    "serve": "serv",
    "bound": "bound",
    "export": "onnx",
    "launch": "launcher",
}


def test_the_readme_denies_nothing_that_exists() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    denied = readme.split("Not yet here:")[1].split("\n\n")[1].lower()
    assert denied.startswith("- "), "the list of what is missing"
    verbs = {info.name or info.callback.__name__ for info in app.registered_commands if info.callback}
    for word in (*verbs, *SPOKEN_OF):
        assert word not in denied, f"'{word}' exists, and the README says that it does not"
    assert "none yet" not in readme
    layout = readme.split("## Layout")[1].split("##")[0]
    for folder in re.findall(r"^    (\w+)/ ", layout, re.MULTILINE):
        assert any((CHECKOUT / folder).iterdir()), folder


def test_every_verb_is_described() -> None:
    text = (CHECKOUT / "docs" / "command_line.md").read_text() + "".join(
        page.read_text() for page in PAGES if page.stem in {"compare", "tune", "serving", "bound"}
    )
    for info in app.registered_commands:
        verb = info.name or (info.callback.__name__ if info.callback else "")
        assert f"offload-rllib {verb}" in text, verb


def test_the_specification_of_observations_lists_every_number_in_order() -> None:
    text = OffloadParallelEnv.__doc__ or ""
    listed = re.findall(r"^\s*\| (\d+) \| ([\w.]+) \|", text, re.MULTILINE)
    names = [f"self.{name}" for name in SELF_FEATURES] + [f"task.{name}" for name in TASK_FEATURES]
    names += [f"row_0.{name}" for name in HERE_FEATURES]
    expected = [*enumerate(names), *enumerate(ROW_FEATURES)]
    assert [(int(index), name) for index, name in listed] == expected
