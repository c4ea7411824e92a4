"""Kernels that call each other are compiled as one unit, with the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from offload_rllib.simulator.compiling.kernel_compiler import Kernel
from offload_rllib.simulator.jit import OPTIONS


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel anew in every process: one from the disk cache has compiled nothing that could be looked at."""
    return Kernel(function, OPTIONS, cache_folder=None)


def called_kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel that is called, not inlined, anew in every process."""
    return Kernel(function, OPTIONS | {"forceinline": False}, cache_folder=None)


@kernel
def _product(x, factor=3):
    return x * factor


@called_kernel
def _square(x):
    return _product(x, x)


@kernel
def _sum(values):
    total = 0
    for i in range(len(values)):
        total += _product(values[i], 3) + _product(1, 2) + _square(i)
    return total


def compiled(function: Any) -> list[Any]:
    """Return the versions of a kernel that other kernels call."""
    return list(function.overloads.values())


def test_python_calls_kernels_and_kernels_call_each_other() -> None:
    assert _sum(np.array([5, 7], np.int32)) == 3 * 5 + 2 + 0 + 3 * 7 + 2 + 1
    assert _product(4) == 12
    assert _product(2.5, factor=2) == 5.0
    assert _square(7) == 49


def test_integers_of_any_kind_share_a_version() -> None:
    """A record's int32, a literal and an index: without care each is a version of its own."""
    _sum(np.array([5, 7], np.int32))
    assert [len(compiled(function)) for function in (_product, _square, _sum)] == [1, 1, 0]


def test_what_kernels_call_is_no_machine_code_of_its_own() -> None:
    _sum(np.array([5, 7], np.int32))
    (part,) = compiled(_square)
    assert part.library.get_llvm_str().count("define ") == 2, "itself and what it calls, without wrappers"
