"""Examples in the pages of the documentation: code, configuration, and lines for the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PAGES = [
    *sorted(CHECKOUT.glob("*.md")),
    *sorted((CHECKOUT / "docs").rglob("*.md")),
    *sorted((CHECKOUT / "examples").rglob("*.md")),
    CHECKOUT / "tune_configs" / "README.md",
]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def example(page: Path, file: str) -> str:
    """Return the Python example of a page that begins with a comment with the file's name."""
    found = re.search(rf"```python\n(# {re.escape(file)}\n.*?)```", page.read_text(), re.DOTALL)
    assert found, f"{page.name} has no example {file}"
    return found[1]


def fenced(page: Path) -> list[tuple[str, str]]:
    """Return language and text of every block between fences."""
    return [(language, text) for _, language, text in FENCE.findall(page.read_text())]


def examples(language: str) -> Iterator[tuple[str, str]]:
    """Yield an identifier and the text of every block in a language, over all pages."""
    for page in PAGES:
        for number, text in enumerate(text for found, text in fenced(page) if found == language):
            yield f"{page.stem}-{number}", text


def indented(page: Path) -> list[list[str]]:
    """Return the lines of every indented block, those that end in a backslash joined with the next."""
    text = FENCE.sub("", page.read_text())
    found: list[list[str]] = []
    before, inside = "", False
    for line in text.splitlines():
        code = line.startswith("    ") and (inside or not before.strip())
        if code and not inside:
            found.append([])
        if code and found[-1] and found[-1][-1].endswith("\\"):
            found[-1][-1] = found[-1][-1][:-1] + line.strip()
        elif code:
            found[-1].append(line.strip())
        before, inside = line, code
    return found


def command_lines(page: Path) -> list[str]:
    """Return the lines of code of a page: of its indented blocks, and what is between back quotes in its text."""
    text = FENCE.sub("", page.read_text())
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]
    return [*(line for block in indented(page) for line in block), *inline]


def calls(line: str) -> list[str]:
    """Return the arguments of a call of this package's command line in a line; none without one.

    A variable of a shell's loop has the value 12.
    """
    found = re.search(r"(.?)(?<![\w./\[-])offload-rllib ([a-z].*)", line)
    if not found:
        return []
    quoted, rest = found.groups()
    return shlex.split(re.sub(r"\$\w+", "12", rest.split("'")[0] if quoted == "'" else rest), comments=True)
