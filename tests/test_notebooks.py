"""The notebooks run, and what they keep of a run is small and names no machine. Slow: they are run."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from helpers.pages import CHECKOUT

from scripts.notebooks import FOLDER, run

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# What they print follows from seeds alone.
WITHOUT_TRAINING = {"1_first_comparison", "2_your_network_and_trace", "6_figure_and_latex_table"}
MOST_BYTES = 150_000


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the texts among the outputs of a notebook."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.text if "text" in output else output.data.get("text/plain", "") for output in outputs]


def test_there_are_six_and_the_page_lists_them() -> None:
    page = (CHECKOUT / "docs" / "notebooks.md").read_text()
    assert re.findall(r"\(\.\./examples/notebooks/([\w.]+)\)", page) == [path.name for path in NOTEBOOKS]
    assert len(NOTEBOOKS) == 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_is_small_and_names_no_machine(path: Path) -> None:
    text = path.read_text()
    assert len(text) < MOST_BYTES
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from top to bottom"
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    for line in "\n".join(printed(notebook)).splitlines():
        assert not re.search(r"/(tmp|home|root|work|usr)/|\x1b|\b\d+(\.\d+)? (seconds|ms|µs)\b", line), line
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#:]+)[)#]", cell.source):
                assert (path.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "180")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    result = run(path, tmp_path)
    if path.stem in WITHOUT_TRAINING:
        assert printed(result) == printed(nbformat.read(path, as_version=4))
