"""Ray's defaults that are changed here: ports on all interfaces, an open token, long messages."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private import ray_constants, worker
from ray._private.authentication import authentication_token_setup

AUTH_MODE = "RAY_AUTH_MODE"
# The logger of Ray's messages, for runs that keep a log.
MESSAGES = "offload_rllib.ray"

# Ray binds its ports to loopback where clusters are switched off, by default on Windows and macOS. What is asked for
# as address 127.0.0.1 it takes for that of the network instead.
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that is started in the block listen on the loopback interface only."""
    before, variable = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(CLUSTERS)
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[CLUSTERS] = "0"  # for its processes
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if variable is None:
            del os.environ[CLUSTERS]
        else:
            os.environ[CLUSTERS] = variable


@contextmanager
def messages_to_log() -> Iterator[None]:
    """Keep what Ray's nodes tell this process off the terminal while the block runs.

    That a process died comes as a dump of a dozen numbers, in the midst of the progress. It goes to the log of the run
    in work; where there is none its first sentence is printed.
    """
    before = worker.print_to_stdstream
    worker.print_to_stdstream = _note
    try:
        yield
    finally:
        worker.print_to_stdstream = before


def _note(message: dict[str, Any], **_: Any) -> None:
    text = " ".join(" ".join(message["lines"]).split())
    logger = logging.getLogger(MESSAGES)
    if logger.handlers:
        logger.warning("Ray: %s", text)
    else:
        print(f"Ray: {text.partition('. ')[0]}", file=sys.stderr)  # noqa: T201 - for a person


def use_token_if_there_is_one() -> None:
    """Let this process show the user's token to a cluster, unless RAY_AUTH_MODE says otherwise.

    `ray start` asks for a token where it finds one, and a driver next to it sends none by itself.
    """
    logger = logging.getLogger(authentication_token_setup.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)  # it would say on the terminal what it does
    try:
        authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    finally:
        logger.setLevel(level)


def restrict_token() -> None:
    """Make the user's token readable by its owner alone: Ray creates it with default permissions.

    A file of another user is not changed.
    """
    try:
        token = Path.home() / ".ray" / "auth_token"
        if token.stat().st_uid == os.getuid() and token.stat().st_mode & 0o077:
            token.chmod(0o600)
    except (OSError, RuntimeError):  # there is none, or no home folder: then there is nothing to read
        return
