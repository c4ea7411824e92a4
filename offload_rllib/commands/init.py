"""The verb `init`: a starter project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offload_rllib.commands.terminal import say


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write: a new one, or an empty one.")],
) -> None:
    """Write a starter project: an environment, a policy, a sweep, a script and a test, to copy and change."""
    from offload_rllib.starter.write import write_project

    for path in write_project(folder):
        say(f"written: {path}")
    say(f"next: cd {folder}, then read README.md")
