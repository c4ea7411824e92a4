"""Writes the starter project into a folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from offload_rllib.config import ConfigError

# As the files are in the package, so they are in the user's folder.
PROJECT = Path(__file__).parent / "project"
SUFFIXES = (".md", ".py", ".yaml")


def project_files() -> list[Path]:
    """Return the files of the starter project."""
    return sorted(path for path in PROJECT.iterdir() if path.suffix in SUFFIXES)


def write_project(folder: Path) -> list[Path]:
    """Write the starter project; all of its files, or none.

    Args:
        folder: a new one, whose parent exists, or an empty one.

    Returns:
        The files that were written.

    Raises:
        ConfigError: the folder has files in it, is a file, or its parent does not exist.
        OSError: the folder cannot be written to.
    """
    made = not folder.exists()
    if made and not folder.parent.is_dir():
        raise ConfigError(f"{folder.parent}: no such folder")
    if not made and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; accepted: a new folder, or an empty one")
    if not made and any(folder.iterdir()):
        raise ConfigError(
            f"{folder}: is not empty, and nothing is overwritten; accepted: a new folder, or an empty one"
        )
    folder.mkdir(exist_ok=True)
    files = [folder / file.name for file in project_files()]
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".starter.") as partial:
            copies = [shutil.copyfile(PROJECT / file.name, Path(partial) / file.name) for file in files]
            for copy, file in zip(copies, files, strict=True):
                copy.replace(file)
    except BaseException:
        for file in files:  # the folder was empty: they are ours
            file.unlink(missing_ok=True)
        if made:
            folder.rmdir()
        raise
    return files
