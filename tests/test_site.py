"""The documentation site has every page in its menu. Slow: it is built, strictly, where MkDocs is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.built_site import built_site

CHECKOUT = Path(__file__).parents[1]
DOCS = CHECKOUT / "docs"
# Pages that the site takes from the top of the checkout (`scripts/site_hooks.py`).
FROM_TOP = {"start.md", "contributing.md", "changelog.md"}
NOTEBOOKS = {f"notebooks/{path.stem}.md" for path in (CHECKOUT / "examples" / "notebooks").glob("*.ipynb")}


class Loader(yaml.SafeLoader):
    """Reads MkDocs' configuration without running what it names."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def pages_of(menu: Any) -> Iterator[str]:
    for entry in menu:
        for value in entry.values():
            if isinstance(value, str):
                yield value
            else:
                yield from pages_of(value)


def test_every_page_is_in_the_menu_once() -> None:
    config = yaml.load((CHECKOUT / "mkdocs.yml").read_text(), Loader)  # noqa: S506 - a safe loader with one more tag
    listed = list(pages_of(config["nav"]))
    assert len(listed) == len(set(listed))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert set(listed) == pages | FROM_TOP | NOTEBOOKS
    assert config["strict"] is True


def test_the_workflow_builds_the_site_as_make_does() -> None:
    workflow = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "docs.yml").read_text())
    commands = [step.get("run") for step in workflow["jobs"]["build"]["steps"]]
    assert "make docs" in commands
    assert "mkdocs build --strict" in (CHECKOUT / "Makefile").read_text()


@pytest.mark.slow
def test_the_site_is_built_and_asks_no_other_for_anything(tmp_path: Path) -> None:
    built_site(tmp_path)
    built = {str(page.relative_to(tmp_path)): page.read_text() for page in tmp_path.rglob("*.html")}
    assert {f"{page.removesuffix('.md')}.html" for page in FROM_TOP | NOTEBOOKS} <= built.keys()
    for name, text in built.items():
        assert not re.search(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="https?:', text), name
        assert 'class="arithmatex"' not in text, name
        assert not re.search(r'<img(?![^>]*\balt="[^"]+")', text), name
        assert len(text.encode()) < 500_000, name
    assert "<math" in built["bound.html"]
    for name in ("envs.vector.vector_env", "replay.write.write_replay"):
        assert f'id="offload_rllib.{name}"' in built["python.html"]
