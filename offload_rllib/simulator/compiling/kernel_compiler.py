"""Compiles a kernel and all that it calls as one unit, instead of each as a function of its own.

Numba compiles every function to machine code, optimizes it, and wraps it for calls from Python and from C, called so or
not. Kernels call each other up to a dozen levels deep and are inlined: their code was optimized
again at each level, and 96 of 100 wrappers were never called. Here a kernel that another one calls becomes nothing
but a part of its caller: it is lowered to LLVM's intermediate code once, and optimized there. A kernel called from
Python is compiled as Numba does it. This takes a quarter of the time, and the code is as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

from numba.core import config as numba_config
from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, CompilerBase
from numba.core.compiler_machinery import register_pass
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NativeLowering

from offload_rllib.simulator.compiling.kernel_cache import KernelCache


class _PartLibrary(JITCodeLibrary):
    """The intermediate code of a kernel and of those it calls, to be linked into a caller; never machine code."""

    def finalize(self) -> None:
        """Link the code of those it calls; leave its optimization to the kernel that Python calls."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)  # noqa: SLF001 - as Numba's own
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    """Lower a kernel without machine code and without wrappers."""

    _name = "kernel_part_lowering"

    def run_pass(self, state: Any) -> Literal[True]:
        """Lower it, and make it known to the lowering of its callers under a key of its own."""
        state.flags.no_compile = state.flags.no_cpython_wrapper = state.flags.no_cfunc_wrapper = True
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        super().run_pass(state)
        key = object()
        state.targetctx.insert_user_function(key, state["cr"].fndesc, [state.library])
        state["cr"] = state["cr"]._replace(cfunc=key)
        return True


class _PartCompiler(CompilerBase):
    """Numba's pipeline with another lowering."""

    def define_pipelines(self) -> list[Any]:
        """Return the pipeline."""
        (pipeline,) = Compiler.define_pipelines(self)  # type: ignore[arg-type] - it needs nothing but the state
        pipeline.passes = [
            (_PartLowering if stage is NativeLowering else stage, description) for stage, description in pipeline.passes
        ]
        pipeline.finalize()
        return [pipeline]


class _Entry(CPUDispatcher):
    """A kernel as Python calls it, compiled by one process at a time."""

    _cache: Any

    def compile(self, sig: Any) -> Any:
        """Return the machine code for arguments of some types."""
        try:
            return super().compile(sig)
        finally:
            if isinstance(self._cache, KernelCache):
                self._cache.release()


class Kernel(CPUDispatcher):
    """A kernel: a part of those that call it, and a function that Python can call.

    Signed integers are passed between kernels as int64, whether they were literals, indices or read from records: one
    version of a kernel instead of up to ten.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any], cache_folder: str | None) -> None:
        """Take the function; nothing is compiled before it is called.

        Args:
            function: what to compile.
            options: of Numba's jit.
            cache_folder: where the machine code is kept that Python calls; None: in memory alone.
        """
        super().__init__(function, targetoptions={"nopython": True} | options, pipeline_class=_PartCompiler)
        self._options = options
        self._cache_folder = cache_folder

    @cached_property
    def entry(self) -> Any:
        """The kernel as Python calls it."""
        compiled: Any = _Entry(self.py_func, targetoptions={"nopython": True} | self._options)
        if self._cache_folder is not None:
            settings: Any = numba_config  # its attributes are set by numba at import, unseen by the type checker
            before = settings.CACHE_DIR
            settings.CACHE_DIR = self._cache_folder
            try:
                compiled._cache = KernelCache(self.py_func)  # noqa: SLF001 - what `cache=True` does, with another class
            finally:
                settings.CACHE_DIR = before  # for other packages
        return compiled

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run the kernel."""
        return self.entry(*arguments, **named)

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """Return how a caller with arguments of these types calls it, after it has been lowered for them."""
        _, folded = self.fold_argument_types(args, kws)
        return super().get_call_template(tuple(_widened(argument) for argument in folded), {})

    def add_overload(self, cres: Any) -> None:
        """Keep what was lowered for its callers, but out of the reach of Python: there is no machine code to call."""
        self.overloads[tuple(cres.signature.args)] = cres


def _widened(argument: Any) -> Any:
    if isinstance(argument, types.Literal):
        argument = argument.literal_type
    return types.int64 if getattr(argument, "signed", False) else argument  # only integers have a sign
