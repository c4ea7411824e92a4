"""The verb `watch`: a run or a sweep in a browser, while it works."""

from __future__ import annotations

import signal
import webbrowser
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload_rllib.commands.terminal import say

if TYPE_CHECKING:
    from offload_rllib.watching.latest import LatestReplay


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run or of a sweep.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0: a free one.")] = 8400,
    open_: Annotated[bool, typer.Option("--open", help="Also open the page in the default browser.")] = False,
) -> None:
    """Show a run or a sweep as a page that follows it, to browsers on this machine; nothing is changed."""
    from offload_rllib.watching.folder import watched
    from offload_rllib.watching.server import Server

    def replay() -> bytes:
        return latest().page()

    @cache
    def latest() -> LatestReplay:  # it needs torch, which takes seconds to import: only who asks for it waits
        from offload_rllib.watching.latest import LatestReplay

        return LatestReplay(run)

    with Server(watched(run), port, replay) as server:
        say(f"watching: {server.url}; Ctrl-C stops it")
        if open_:
            webbrowser.open(server.url)
        # Background jobs ignore SIGINT, and SIGTERM would end the process without a word.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")
