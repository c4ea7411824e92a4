"""Examples in the pages of the documentation."""

from __future__ import annotations

import re
from pathlib import Path


def example(page: Path, file: str) -> str:
    """Return the Python example of a page that begins with a comment with the file's name."""
    found = re.search(rf"```python\n(# {re.escape(file)}\n.*?)```", page.read_text(), re.DOTALL)
    assert found, f"{page.name} has no example {file}"
    return found[1]
