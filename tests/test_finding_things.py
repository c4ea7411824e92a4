"""The ways to ten answers lead through the menu of the site to sections that have the answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from helpers.pages import CHECKOUT

DOCS = CHECKOUT / "docs"
ROW = re.compile(r"^\| (.+\?) \| ([^|,]+), (?:([^|]+), )?\[(.+?)\]\((.+?)#(.+?)\) \| (.+) \| `(.+)` \|$", re.MULTILINE)
WAYS = ROW.findall((DOCS / "finding_things.md").read_text())


class Loader(yaml.SafeLoader):
    """Reads MkDocs' configuration without running what it names."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def section(page: Path, anchor: str) -> str:
    """Return the text below a heading, to the next one of its level; "" without such a heading."""
    lines = page.read_text().splitlines()
    for start, line in enumerate(lines):
        heading = re.match(r"(#+) (.+)$", line)
        if heading and re.sub(r"[^\w\- ]", "", heading[2].lower()).replace(" ", "-") == anchor:
            ends = re.compile(f"#{{1,{len(heading[1])}}} ")
            end = next((i for i in range(start + 1, len(lines)) if ends.match(lines[i])), len(lines))
            return "\n".join(lines[start + 1 : end])
    return ""


def test_there_are_ten_ways() -> None:
    rows = re.findall(r"^\| .+\? \|", (DOCS / "finding_things.md").read_text(), re.MULTILINE)
    assert len(rows) == len(WAYS) == 10


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way[0])
def test_a_way_leads_to_its_answer(way: tuple[str, ...]) -> None:
    _, tab, page, title, target, anchor, searched, answer = way
    menu = yaml.load((CHECKOUT / "mkdocs.yml").read_text(), Loader)["nav"]  # noqa: S506 - a safe loader
    (entries,) = [entries for each in menu for name, entries in each.items() if name == tab]
    listed = {name: path for each in entries for name, path in each.items()}
    file = "start.md" if target == "../README.md" else target
    assert listed[page or title] == file, "the menu has the page under that name"
    found = section(DOCS / target, anchor)
    assert answer in found
    assert all(word in found.lower() or word in (page + title).lower() for word in searched.lower().split())
