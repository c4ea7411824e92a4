"""One process at a time works in a folder: a file says which, and that it still lives."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from offload_rllib.config import ConfigError

LOCK = "lock.json"
# How often a holder gives a sign of life, and after what silence one on another machine counts as gone.
BEAT_S = 10.0
STALE_S = 120.0


@contextmanager
def locked(folder: Path, tell: Callable[[str], Any]) -> Iterator[None]:
    """Hold the lock of a folder while the block runs.

    Args:
        folder: in which the block works.
        tell: is given what a person should know: that the lock of a process that is gone was taken over.

    Raises:
        ConfigError: another process works in the folder; it is named.
    """
    path = folder / LOCK
    us = _ourselves()
    with _opened(path) as file:
        holder = _read(file)
        if holder is not None:
            silent_s = _silence_s(path)
            if _works(holder, silent_s):
                raise ConfigError(
                    f"{folder}: process {holder['pid']} on {holder['host']} works on it, since {holder['since']}; "
                    "wait for it, or end it first"
                )
            tell(
                f"{folder}: process {holder['pid']} on {holder['host']} worked on it and is gone, without a sign of "
                f"life for {silent_s:.0f} s; taken over"
            )
        _write(file, us)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, us, ended, tell), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        if path.is_file():  # not with a folder that was removed
            with _opened(path) as file:
                if _read(file) == us:
                    path.unlink()


def is_held(folder: Path) -> bool:
    """Return whether a process that lives, here or on another machine, works in a folder."""
    path = folder / LOCK
    try:
        with path.open(encoding="utf-8") as file:
            holder = _read(file)
        return holder is not None and _works(holder, _silence_s(path))
    except OSError:  # there is no lock, or the folder cannot be written
        return False


def _ourselves() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "processes": _processes(),
        "started": _started(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processes() -> str:
    """Return a name of the numbers that processes have here: containers of one host may count their own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process was started, in the system's own unit: numbers of processes are used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _works(holder: dict[str, Any], silent_s: float) -> bool:
    if holder["host"] != socket.gethostname() or holder["processes"] != _processes():
        return silent_s < STALE_S
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _started(holder["pid"]) == holder["started"]


def _silence_s(path: Path) -> float:
    """Return the age of the last sign of life, by the clock of the machine that keeps the file."""
    probe = path.with_name(f".{LOCK}.{os.getpid()}")
    try:
        probe.touch()
        return max(probe.stat().st_mtime - path.stat().st_mtime, 0.0)
    finally:
        probe.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open the file of a lock, made if it is missing, for this process alone."""
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8") as file:
            # Where a file system knows no locks, two processes that begin in the same moment cannot be distinguished.
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:  # not removed by its holder meanwhile
                yield file
                return


def _read(file: Any) -> dict[str, Any] | None:
    """Return the holder of a lock; None without one, or if the file was cut off while it was written."""
    try:
        content = json.loads(file.read(10_000))
        return {"host": str(content["host"]), "pid": int(content["pid"])} | {
            key: str(content[key]) for key in ("processes", "started", "since")
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _write(file: Any, us: dict[str, Any]) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(us) + "\n")
    file.flush()


def _beat(path: Path, us: dict[str, Any], ended: threading.Event, tell: Callable[[str], Any]) -> None:
    while not ended.wait(BEAT_S):
        try:
            with path.open(encoding="utf-8") as file:
                holder = _read(file)
            if holder is not None and holder != us:
                tell(f"{path.parent}: process {holder['pid']} on {holder['host']} has taken this folder over")
                return
            os.utime(path, (time.time(), time.time()))
        except OSError:  # storage that is gone for a while, or the folder was removed
            continue
