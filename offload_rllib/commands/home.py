"""A home folder for a user who has none, as in containers that run with a number the system does not know."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Give this process and its children a home folder, and its user a name, where there are none: Ray needs both.

    The folder is this process's own, and removed at its end: it will hold Ray's token.
    """
    try:
        Path.home()
    except RuntimeError:
        home = tempfile.mkdtemp(prefix="offload-rllib-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HOME"] = home
        os.environ.setdefault("USER", str(os.getuid()))
