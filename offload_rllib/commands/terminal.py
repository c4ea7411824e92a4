"""The terminal that all verbs print on."""

from __future__ import annotations

from rich.console import Console

console = Console()
if not console.is_terminal:
    console = Console(width=100)  # a log file has no width; 80 would fold the tables


def say(line: str) -> None:
    """Print a line that a person may copy: unbroken, uncoloured."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
