"""How arrays and plain values travel: as JSON, or as safetensors.

Safetensors is a documented format (https://github.com/huggingface/safetensors) with readers in many languages: 8 bytes
with the length N of the header (unsigned, little-endian), N bytes of JSON, then the numbers of all arrays,
little-endian, in C order. The header says of each array its `dtype`, `shape` and `data_offsets`, its first byte and the
one after its last, counted from the end of the header. The plain values of a message are a JSON text in the header, at
`__metadata__.values`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json
from safetensors import SafetensorError
from safetensors.numpy import load, save

from offload_rllib.envs.remote.connection import JSON_TYPE
from offload_rllib.simulator.types import Array

BINARY_TYPE = "application/x-safetensors"
TYPES = (JSON_TYPE, BINARY_TYPE)
# Where a header has the plain values.
METADATA = "__metadata__"
VALUES = "values"
LENGTH_BYTES = 8


class WireError(ValueError):
    """Bytes that are not a message in the binary form."""


def to_text(arrays: Mapping[str, Array], values: Mapping[str, Any]) -> bytes:
    """Return a message as JSON: arrays as nested lists; NaN and the infinities as texts, as in Protobuf's JSON."""
    return to_json({**values, **{name: array.tolist() for name, array in arrays.items()}}, inf_nan_mode="strings")


def to_binary(arrays: Mapping[str, Array], values: Mapping[str, Any]) -> bytes:
    """Return a message as safetensors."""
    text = to_json(dict(values), inf_nan_mode="strings").decode()
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {VALUES: text})


def from_binary(body: bytes) -> tuple[dict[str, Array], Any]:
    """Return the arrays and the plain values of a message in safetensors.

    Raises:
        WireError: it is not one.
    """
    try:
        arrays = load(body)
        length = int.from_bytes(body[:LENGTH_BYTES], "little")
        header = from_json(body[LENGTH_BYTES : LENGTH_BYTES + length])
        text = header.get(METADATA, {}).get(VALUES, "{}")
        return arrays, from_json(text)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WireError(f"not a message in safetensors: {' '.join(str(error).split())}") from error


def body_of(kind: str, arrays: Mapping[str, Array], values: Mapping[str, Any]) -> bytes:
    """Return a message as bytes of a media type, one of `TYPES`."""
    return to_binary(arrays, values) if kind == BINARY_TYPE else to_text(arrays, values)


def contents_of(kind: str, body: bytes) -> tuple[dict[str, Any], Any]:
    """Return the arrays and the plain values of a message; in JSON they are together, and no arrays are returned.

    Raises:
        WireError: it is not of that media type.
    """
    if kind == BINARY_TYPE:
        return from_binary(body)
    try:
        return {}, from_json(body)
    except ValueError as error:
        raise WireError(f"not JSON: {error}") from error
