"""The command line as a process, and parsed without running it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import click
import typer

from offload_rllib.cli import app, main


def start(folder: Path, *arguments: str, program: Sequence[str] = ("-m", "offload_rllib")) -> subprocess.Popen[str]:
    """Start the command line in a process group of its own, as a terminal does.

    Shells let what they start in the background ignore Ctrl-C, which children inherit; so it is allowed again.
    """
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=folder,
        env=os.environ | {"RAY_raylet_start_wait_time_s": "180", "RAY_worker_niceness": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - it takes no lock
    )


def finish(process: subprocess.Popen[str], timeout: float = 300) -> str:
    """Wait for a process and return what it printed; end its group if it takes too long."""
    try:
        return process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def run_here(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the command line in this process, as if it were started in a folder; return exit code and what it printed.

    A process of its own takes seconds to load the libraries. It is needed only for signals and for a Ray of its own.
    """
    printed, code = io.StringIO(), 0
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", ["offload-rllib", *arguments]),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, printed.getvalue()


def lines_until(process: subprocess.Popen[str], beginning: str) -> list[str]:
    """Return what a process prints up to a line that begins so; everything if there is none."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            break
    return lines


def options_of_verbs() -> dict[str, set[str]]:
    """Return the options of each verb."""
    verbs = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    return {
        name: {option for parameter in verb.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, verb in verbs.items()
    }


def parse(command: list[str]) -> dict[str, Any]:
    """Parse a call of this package's command line without running it; return the verb's options."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    verb = group.commands[command[0]]  # pyright: ignore[reportAttributeAccessIssue]
    return dict(verb.make_context(command[0], command[1:]).params)
