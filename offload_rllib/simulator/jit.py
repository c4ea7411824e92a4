"""The decorator of every compiled kernel, and where the compiled code is cached.

Numba's on-disk cache notices an edit of the file that holds a kernel, but not an edit of another file whose
kernels it calls: the caller would continue to run the old callee. The cache folder is therefore named by a hash of
the sources of *all* kernels, so an edit anywhere starts from an empty folder.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from offload_rllib.simulator.compiling.kernel_compiler import Kernel

Function = TypeVar("Function", bound=Callable[..., Any])

PACKAGE = Path(__file__).resolve().parent.parent
KERNEL_FOLDERS = ("simulator", "envs")


def source_hash(package: Path = PACKAGE) -> str:
    """Return a hash of every source file that holds kernels, and of the versions that compile them."""
    digest = hashlib.sha256(f"numba {numba.__version__}".encode())
    for folder in KERNEL_FOLDERS:
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def user_cache() -> Path:
    """Return the folder for files that can be made again: ``$OFFLOAD_RLLIB_CACHE`` or the user's cache folder.

    Raises:
        FileNotFoundError: neither is known.
    """
    chosen = os.environ.get("OFFLOAD_RLLIB_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "offload-rllib"
    try:
        return Path.home() / ".cache" / "offload-rllib"
    except RuntimeError as error:  # a user whom the system does not know, without HOME, as in containers
        raise FileNotFoundError(errno.ENOENT, "there is no home folder", "cache") from error


def _kernel_cache() -> str | None:
    """Return the folder of compiled kernels; None if there is no place for any."""
    folder = Path("cache")
    try:
        folder = user_cache() / "kernels" / source_hash()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        # Compiled code is trusted when it is loaded, so it never goes to a folder that others could have made.
        try:
            private = tempfile.mkdtemp(prefix="offload-rllib-kernels-")
            atexit.register(shutil.rmtree, private, ignore_errors=True)
        except OSError:
            private = None
        warnings.warn(
            f"{folder}: compiled kernels cannot be kept ({error.strerror}); each process compiles them again, which "
            "takes about half a minute. Set OFFLOAD_RLLIB_CACHE to a folder that can be written.",
            stacklevel=2,
        )
        return private
    return str(folder)


KERNEL_CACHE = _kernel_cache()


# Kernels allocate nothing and outlive no array, so they count no references: atomic counters made them 5 times slower.
# They are inlined into each other, for a struct of arrays passed by value costs more than most of them do.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",  # division by zero is not checked
    "_nrt": False,
    "forceinline": True,
}


def kernel(function: Function) -> Function:
    """Compile `function` with numba, cached on disk, running without the interpreter's lock."""
    return cast("Function", Kernel(function, OPTIONS, KERNEL_CACHE))


def called_kernel(function: Function) -> Function:
    """Compile a kernel that is called, not inlined: long code on a rare path, with few and small arguments."""
    return cast("Function", Kernel(function, OPTIONS | {"forceinline": False}, KERNEL_CACHE))


def entry_point(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Return the machine code of a kernel for arguments of the same types as those given.

    Numba looks at the type of every argument in every call, which takes 10 microseconds for the structs of a batch.
    Here it does so once. Nothing is checked in calls of what is returned: their arguments must have the same types.
    """
    kernel: Any = function
    compiled = kernel.entry
    return compiled.compile(tuple(compiled.typeof_pyval(argument) for argument in arguments))
