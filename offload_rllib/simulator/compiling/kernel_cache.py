"""Compiled code on a disk that may damage it, or not take it: then it is compiled again, or kept in memory.

Numba hands what it reads to pickle and LLVM unseen, where a file that was cut off or changed ends the process, often
without a word. Here each file carries a checksum, and one that does not fit counts as missing.

Runners, nodes and tests start together, and all need the same code. One process compiles it, and the others wait.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from pathlib import Path
from typing import Any

from filelock import FileLock
from numba.core.caching import FunctionCache, IndexDataCacheFile

_DIGEST_BYTES = hashlib.sha256().digest_size
# Many times what a kernel takes on a busy machine. After that it is compiled here, too.
LONGEST_WAIT_S = 600.0


class _CheckedFiles(IndexDataCacheFile):
    """Numba's files of a kernel, each behind a checksum of its content."""

    def _load_index(self) -> dict[Any, str]:
        content = _read(self._index_path)
        if content is None:
            return {}
        version, stamp, overloads = pickle.loads(content)  # noqa: S301 - in a folder of the user own, as all of Numba's
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        content = _read(self._data_path(name))
        if content is None:
            raise FileNotFoundError(name)  # which `load` takes for "not in the cache"
        return pickle.loads(content)  # noqa: S301 - as above

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _write(self, path: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(content).digest() + content)


def _read(path: str) -> bytes | None:
    """Return the content behind a file's checksum; None if it is missing, unreadable or damaged."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - Numba's paths are texts
            content = file.read()
    except OSError:
        return None
    digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


class KernelCache(FunctionCache):
    """Numba's cache of a kernel, with checksums, a lock, and content with a disk that takes nothing."""

    has_warned = False

    def __init__(self, function: Any) -> None:
        """Find the kernel's files."""
        super().__init__(function)
        numbas = self._cache_file
        self._cache_file = _CheckedFiles(numbas._cache_path, self._impl.filename_base, numbas._source_stamp)  # noqa: SLF001 - there is no other way
        self._lock = FileLock(Path(self.cache_path) / f"{self._impl.filename_base}.lock", thread_local=False)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return compiled code from the disk. None: compile it, and call `release` afterwards."""
        found = super().load_overload(sig, target_context)
        if found is None and self._has_turn():
            found = super().load_overload(sig, target_context)
        return found

    def _has_turn(self) -> bool:
        """Wait for another process that compiles this kernel; return whether it is this one's turn."""
        try:
            Path(self.cache_path).mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=LONGEST_WAIT_S)
        except (OSError, NotImplementedError):  # a disk without locks, or full, or the wait was too long
            return False
        return True

    def release(self) -> None:
        """Let other processes load what this one has compiled, or compile it themselves."""
        self._lock.release(force=True)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code; on a full or lost disk it stays in memory, and a warning says so once."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            if not KernelCache.has_warned:
                KernelCache.has_warned = True
                warnings.warn(
                    f"{self.cache_path}: compiled kernels cannot be kept ({error.strerror or error}); each process "
                    "compiles them again, which takes about half a minute. Make room, or set OFFLOAD_RLLIB_CACHE.",
                    stacklevel=2,
                )
