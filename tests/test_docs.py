"""The documentation is that of this code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import offload_rllib
from offload_rllib.cli import app
from offload_rllib.envs.observation import HERE_FEATURES, ROW_FEATURES, SELF_FEATURES, TASK_FEATURES
from offload_rllib.envs.parallel import OffloadParallelEnv
from offload_rllib.evaluation.metrics import METRICS

CHECKOUT = Path(__file__).parents[1]
PAGES = [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").rglob("*.md"))]


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


def verbs() -> set[str]:
    """Return the verbs of the command line."""
    groups = {info.name for info in app.registered_groups if info.name}
    return groups | {info.name or info.callback.__name__ for info in app.registered_commands if info.callback}


def test_examples_of_the_readme_need_the_public_face_alone() -> None:
    examples = re.findall(r"```python\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    assert examples
    for example in examples:
        assert not re.search(r"offload_rllib\.\w+ import|import offload_rllib\.", example)
        for name in re.findall(r"offload_rllib\.(\w+)", example):
            assert name in offload_rllib.__all__
            assert getattr(offload_rllib, name)


def test_type_checkers_read_the_package() -> None:
    assert Path(offload_rllib.__file__).with_name("py.typed").is_file()


def test_the_index_leads_to_every_page() -> None:
    index = CHECKOUT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#:]+)", index.read_text())}
    assert {page for page in PAGES if page.is_relative_to(index.parent)} - {index} <= linked


def test_the_page_of_metrics_has_each_with_its_title() -> None:
    text = (CHECKOUT / "docs" / "metrics.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE)
    assert len(listed) == len(METRICS)
    assert dict(listed) == {name: metric.label for name, metric in METRICS.items()}


def test_the_page_of_python_has_every_public_name() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (CHECKOUT / "docs" / "python.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(set(offload_rllib.__all__) - {"__version__"})


def test_the_glossary_has_each_term_once() -> None:
    terms = re.findall(r"^\| ([^|]+?)\*? \|", (CHECKOUT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    terms = [term for term in terms if term != "term"]
    assert len(terms) > 50
    assert len(terms) == len({term.lower() for term in terms})


# Words by which a page would speak of verbs, and of what the scripts launch.
SPOKEN_OF = {
    "tune": "sweep",
    "compare": "compar",
    "serve": "serving",
    "bound": "bound",
    "export": "onnx",
    "launch": "launcher",
}


def test_the_readme_lists_the_verbs_of_the_command_line() -> None:
    table = (CHECKOUT / "README.md").read_text().partition("| verb | what it does |\n")[2].partition("\n\n")[0]
    listed = [verb for row in table.splitlines() for verb in re.findall(r"`([\w-]+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(verbs())


def test_the_readme_denies_nothing_that_exists() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    denied = readme.split("Not yet here:")[1].split("\n\n")[1].lower()
    assert denied.startswith("- "), "the list of what is missing"
    for word in (*verbs(), *SPOKEN_OF, *SPOKEN_OF.values()):
        assert word not in denied, f"'{word}' exists, and the README says that it does not"
    assert "none yet" not in readme
    layout = readme.split("## Layout")[1].split("##")[0]
    for folder in re.findall(r"^    (\w+)/ ", layout, re.MULTILINE):
        assert any((CHECKOUT / folder).iterdir()), folder


def test_contributing_names_files_that_exist() -> None:
    table = (CHECKOUT / "CONTRIBUTING.md").read_text().partition("| to add |")[2].partition("\n\n")[0]
    named = re.findall(r"`([\w./-]+/[\w./-]*)`", table)
    assert len(named) > 20
    for path in named:
        assert (CHECKOUT / path).exists(), path


def test_the_workflow_runs_what_the_project_runs() -> None:
    workflow = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "test.yml").read_text())
    commands = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in commands


def test_every_verb_is_described() -> None:
    text = (CHECKOUT / "docs" / "command_line.md").read_text() + "".join(
        page.read_text() for page in PAGES if page.stem in {"compare", "tune", "serving", "bound"}
    )
    for verb in verbs():
        assert f"offload-rllib {verb}" in text, verb


def test_the_specification_of_observations_lists_every_number_in_order() -> None:
    text = OffloadParallelEnv.__doc__ or ""
    listed = re.findall(r"^\s*\| (\d+) \| ([\w.]+) \|", text, re.MULTILINE)
    names = [f"self.{name}" for name in SELF_FEATURES] + [f"task.{name}" for name in TASK_FEATURES]
    names += [f"row_0.{name}" for name in HERE_FEATURES]
    expected = [*enumerate(names), *enumerate(ROW_FEATURES)]
    assert [(int(index), name) for index, name in listed] == expected
