"""Files that are written completely or not at all, and files that are read without trusting their author."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offload_rllib.config.errors import ConfigError

# More than any file of text that this package writes.
MOST_BYTES = 256 * 2**20


@contextmanager
def written_at_once(path: Path) -> Iterator[Path]:
    """Give a path to write to; it becomes `path` when the block ends, and vanishes if the block fails.

    Raises:
        OSError: the folder does not take the file (no such folder, no permission, full disk).
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        partial = Path(file.name)
    try:
        yield partial
        partial.chmod(0o666 & ~umask())  # temporary files are private; results are as the user wants files to be
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def umask() -> int:
    """Return the rights that this process takes from new files."""
    mask = os.umask(0o077)  # it can only be read by setting it; nothing made meanwhile is open to others
    os.umask(mask)
    return mask


def read_bytes(path: Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file; special files, which could block, are rejected.

    Raises:
        ConfigError: it cannot be read, is not a regular file, or is larger than `most_bytes`.
    """
    try:
        # A pipe would block until another process writes into it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ConfigError(f"{path}: cannot be read: not a regular file")
            if about.st_size > most_bytes:
                raise ConfigError(f"{path}: {about.st_size:,} bytes; at most {most_bytes:,} are read")
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def read_text(path: Path, *, most_bytes: int = MOST_BYTES) -> str:
    """Return the text of a regular file; errors as `read_bytes`, and if it is not UTF-8."""
    try:
        return read_bytes(path, most_bytes=most_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text in UTF-8: {error.reason} at byte {error.start}") from error


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Args:
        path: the file.
        what: it is, for messages, e.g. ``the record of a run``.

    Raises:
        ConfigError: it cannot be read, or holds none.
    """
    try:
        content = json.loads(read_text(path))
    except RecursionError as error:
        raise ConfigError(f"{path}: not {what}: nested too deeply") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: not {what}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not {what}: must be an object, is {type(content).__name__}")
    return content
