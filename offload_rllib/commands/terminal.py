"""The terminal that all verbs print on."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

# The text may come from files of other users: it is not read as markup.
console = Console(markup=False, emoji=False)
if not console.is_terminal:
    console = Console(markup=False, emoji=False, width=100)  # a log file has no width; 80 would fold the tables


def say_logs(folder: Path) -> None:
    """Print how TensorBoard shows a folder."""
    say(f"TensorBoard: {shlex.join(['tensorboard', '--logdir', str(folder)])}")


def say(line: str) -> None:
    """Print a line that a person may copy: unbroken, uncoloured."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
