"""The terminal that all verbs print on."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from rich.console import Console

# The text may come from files of other users: it is not read as markup.
console = Console(markup=False, emoji=False)
if not sys.stdout.isatty():
    # A log file has no width; 80 would fold the tables. Jupyter sets FORCE_COLOR, and rich would take that for a
    # terminal, on which progress bars move.
    console = Console(markup=False, emoji=False, width=100, force_terminal=False)


def say_logs(folder: Path) -> None:
    """Print how TensorBoard shows a folder."""
    say(f"TensorBoard: {shlex.join(['tensorboard', '--logdir', str(folder)])}")


def say(line: str) -> None:
    """Print a line that a person may copy: unbroken, uncoloured."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def say_error(message: str) -> None:
    """Print what went wrong as one line on the error stream."""
    Console(stderr=True).print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
