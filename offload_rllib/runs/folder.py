"""A folder in which something long is done: made once, never overwritten, with a record of its state."""

from __future__ import annotations

import errno
import itertools
import json
import os
import platform
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import yaml

from offload_rllib.config import ConfigError
from offload_rllib.config.files import read_json, umask, written_at_once
from offload_rllib.version import __version__

Results = TypeVar("Results")
# The file that distinguishes the folder of a comparison.
COMPARISON_PLAN = "compare.yaml"
_PACKAGES = ("numpy", "numba", "ray", "torch", "gymnasium", "pettingzoo")


def next_free(folder: Path, stem: str) -> Path:
    """Return the first of `stem-1`, `stem-2`, ... that does not exist in a folder."""
    return next(path for number in itertools.count(1) if not (path := folder / f"{stem}-{number}").exists())


def is_comparison(folder: Path) -> bool:
    """Return whether a folder is that of a comparison."""
    return (folder / COMPARISON_PLAN).is_file()


def write_results(out: Path | None, parent: Path, stem: str, write: Callable[[Path], Results]) -> tuple[Path, Results]:
    """Write results into a folder that appears when all of them are there: `out`, or the next free one.

    The name is chosen only then: who began at the same time may have taken the one that was free before.

    Args:
        out: the folder, or None.
        parent: of the folder without `out`.
        stem: of its name.
        write: given a folder, writes into it.

    Returns:
        The folder, and what `write` returned.

    Raises:
        ConfigError: `out` exists.
        OSError: the folder cannot be made.
    """
    refuse_existing(out)
    beside = out.parent if out else parent
    try:
        beside.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(beside)) from error
    partial = Path(tempfile.mkdtemp(dir=beside, prefix=f".{out.name if out else stem}."))
    try:
        partial.chmod(0o777 & ~umask())
        written = write(partial)
        while True:
            folder = out or next_free(parent, stem)
            try:
                partial.rename(folder)  # fails where a folder with something in it is
            except OSError:
                refuse_existing(out)
                if not folder.exists():
                    raise
            else:
                return folder, written
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def refuse_existing(out: Path | None) -> None:
    """Reject a file or folder for results that exists.

    Raises:
        ConfigError: it does.
    """
    if out is not None and out.exists():
        raise ConfigError(f"{out}: exists and is not overwritten; choose another --out")


def write_yaml(path: Path, content: Mapping[str, Any], comment: str = "") -> None:
    """Write a mapping in the order of its keys, in one step, below the lines of a comment."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    with written_at_once(path) as partial:
        partial.write_text(head + yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")


@dataclass(frozen=True)
class RecordedFolder:
    """A folder with a record: versions, time, state.

    Attributes:
        path: of the folder.
        trust: whether code that its files name may be run: they may come from another user.
    """

    KIND: ClassVar[str]
    """What messages call it."""
    VERB: ClassVar[str]
    """The command that resumes one."""
    PARENT: ClassVar[Path]
    """Where it lies unless a path is given."""
    RECORD: ClassVar[str]
    """Name of the record."""
    CONTENT: ClassVar[tuple[str, ...]]
    """The YAML files that state what is to be done; a folder without all of them is not of this kind."""

    path: Path
    trust: bool = field(default=False, compare=False)

    @classmethod
    def new_path(cls, name: str | None, default_name: str) -> Path:
        """Return the path of a new folder.

        Args:
            name: of the folder, or a path; None takes `default_name` with the next free number.
            default_name: used without a name.

        Raises:
            ConfigError: the name is not that of a single folder.
        """
        if name is None:
            return next_free(cls.PARENT, default_name)
        path = Path(name) if "/" in name else cls.PARENT / name
        if path.resolve() in (cls.PARENT.resolve(), Path.cwd()):
            raise ConfigError(f"--name '{name}': names no folder of its own; give a name for it under {cls.PARENT}/")
        return path

    def make(self, content: Mapping[str, Mapping[str, Any]], **record: Any) -> None:
        """Make the folder, with YAML files by name and a record.

        Raises:
            ConfigError: it exists, or cannot be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir()
        except FileExistsError as error:
            raise ConfigError(
                f"{self.path}: this {self.KIND} folder exists and is not overwritten; choose another --name, "
                f"or continue it: --resume {self.path}"
            ) from error
        except OSError as error:
            raise ConfigError(f"{self.path}: the {self.KIND} folder cannot be made: {error.strerror}") from error
        try:
            for name, mapping in content.items():
                write_yaml(self.path / name, mapping)
            self.record(
                version=__version__,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                **record,
                packages={name: metadata.version(name) for name in _PACKAGES},
                python=platform.python_version(),
                platform=platform.platform(),
                state="created",
            )
        except BaseException:
            shutil.rmtree(self.path)
            raise

    @classmethod
    def open(cls, path: str | Path, *, trust: bool = False) -> Self:
        """Return an existing folder; `trust` as the attribute.

        Raises:
            ConfigError: there is no such folder, or it is not of this kind.
        """
        folder = cls(Path(path), trust=trust)
        if not folder.path.is_dir():
            raise ConfigError(f"{folder.path}: no such {cls.KIND} folder")
        missing = [name for name in (cls.RECORD, *cls.CONTENT) if not (folder.path / name).is_file()]
        if missing:
            raise ConfigError(f"{folder.path}: not a {cls.KIND} folder: {missing[0]} is missing")
        return folder

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def record(self, **entries: Any) -> None:
        """Add entries to the record, in one step."""
        path = self.path / self.RECORD
        content = self.entries() if path.exists() else {}
        with written_at_once(path) as partial:
            partial.write_text(json.dumps(content | entries, indent=2) + "\n", encoding="utf-8")

    def entries(self) -> dict[str, Any]:
        """Return the record: versions, time, state, and what was added.

        Raises:
            ConfigError: it cannot be read.
        """
        return read_json(self.path / self.RECORD, f"the record of a {self.KIND}")

    @property
    def state(self) -> str:
        """``created``, ``training``, ``interrupted``, ``failed`` or ``finished``."""
        entries = self.entries()
        if "state" not in entries:
            raise ConfigError(f"{self.path / self.RECORD}: not the record of a {self.KIND}: it has no state")
        return str(entries["state"])

    @property
    def resume_command(self) -> str:
        """The command that resumes it."""
        trust = ["--trust"] if self.entries().get("functions") else []
        return shlex.join(["offload-rllib", self.VERB, "--resume", str(self.path), *trust])

    @contextmanager
    def removed_if_not_begun(self) -> Iterator[None]:
        """Remove a new folder if the block fails before work has begun: it would hold nothing, and block its name."""
        try:
            yield
        except BaseException:
            if self.state == "created":
                shutil.rmtree(self.path)
            raise
