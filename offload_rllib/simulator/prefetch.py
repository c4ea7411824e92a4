"""Hints to the processor to bring records into its caches before they are needed.

Events of a large network touch its nodes, links and tasks in no order that a processor could foresee: at 10,000 nodes
most of the time went into waiting for memory. What the next events need stands near the top of the heap, who broadcasts
next in a list, and who decides or sees next is known, too: so records are asked for a little before their turn. Hints
change no result.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

CACHE_LINE_BYTES = 64


def _prefetch(typing_context: Any, records: Any, index: Any) -> Any:  # given by numba
    """Ask for all cache lines of the record [index], or [index, 0], of an array; any index is allowed."""
    if not isinstance(records, types.Array) or not isinstance(index, types.Integer):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        described, number = signature.args
        array = context.make_array(described)(context, builder, values[0])
        byte, word = ir.IntType(8), ir.IntType(32)
        position = context.cast(builder, values[1], number, types.intp)
        stride = builder.extract_value(array.strides, 0)
        first = builder.bitcast(array.data, byte.as_pointer())
        first = builder.gep(first, [builder.mul(position, stride)])
        size = context.get_abi_sizeof(context.get_data_type(described.dtype))
        hint = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte.as_pointer()], ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
        )
        for offset in [*range(0, size, CACHE_LINE_BYTES), size - 1]:
            place = builder.gep(first, [ir.Constant(ir.IntType(64), offset)])
            builder.call(hint, [place, word(0), word(3), word(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.void(records, index), generate


# The compiler gives the first argument itself, which no type checker knows.
prefetch: Any = intrinsic(_prefetch)
