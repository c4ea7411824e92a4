"""A list of a checkpoint's files, stored in it, which distinguishes a complete checkpoint from a damaged one.

A checkpoint is copied file by file to where it is kept; a process or a disk may end in the middle.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.files import read_json

MANIFEST = "contents.json"


def write_manifest(checkpoint: Path, progress: dict[str, Any]) -> None:
    """List the files of a finished checkpoint, with their sizes.

    Args:
        checkpoint: its folder, to which nothing is added afterwards.
        progress: what else to note; plain numbers and texts, others are left out.
    """
    files = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    plain = {
        key: value
        for key, value in progress.items()
        if isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
    }
    (checkpoint / MANIFEST).write_text(json.dumps({"files": files, "progress": plain}, indent=1), encoding="utf-8")


def read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """Return the progress noted in a checkpoint if all its files are complete, otherwise None."""
    try:
        content = read_json(checkpoint / MANIFEST, "the contents of a checkpoint")
        if all((checkpoint / name).stat().st_size == size for name, size in content["files"].items()):
            return dict(content["progress"])
    except (OSError, ConfigError, TypeError, ValueError, KeyError, AttributeError):
        return None
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether all files of a checkpoint are complete."""
    return read_manifest(checkpoint) is not None
