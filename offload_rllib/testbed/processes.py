"""Processes of the operating system: they end with those that started them, and say what they use."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends, however that ends (Linux).

    Elsewhere it ends when the connection to its controller does.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended meanwhile
        os.kill(os.getpid(), signal.SIGKILL)


def clock_name() -> str:
    """Return a name of this process's monotonic clock: who has the same name has the same clock (Linux).

    Empty elsewhere: then nothing is known of it.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/time').readlink()}"
    except OSError:
        return ""


def memory_bytes() -> dict[str, int]:
    """Return this process's memory: resident, and its share of what it has in common with others (Linux)."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return {}
    kib = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)}
    return {"resident_bytes": 1024 * kib["Rss"], "proportional_bytes": 1024 * kib["Pss"]}
