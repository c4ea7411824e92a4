"""What travels over TCP: frames of a length, a kind and a body, and the tasks in them.

Every field has a fixed width, and nothing that arrives is executed or unpickled. A frame that cannot be one raises
`WireError`: its reader closes that connection and continues.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import json
import math
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from offload_rllib.envs.node_view import Heard
from offload_rllib.simulator.types import Array

# Between nodes.
HELLO, BROADCAST, PAYLOAD, TASK, RESULT, GAP, END, NOTICE = range(1, 9)
# Between the controller and its hosts and nodes.
MESSAGE, ARRAYS = 32, 33
KINDS = frozenset((HELLO, BROADCAST, PAYLOAD, TASK, RESULT, GAP, END, NOTICE, MESSAGE, ARRAYS))

MOST_BYTES = 2**20  # of a frame between nodes
MOST_CONTROL_BYTES = 2**28
MOST_HOPS = 64
TOKEN_BYTES = 32

_LENGTH = struct.Struct("<IB")
_HELLO = struct.Struct(f"<{TOKEN_BYTES}sI")
_BROADCAST = struct.Struct("<diidqd")
# Numbers of a task in a frame, in this order.
NUMBERS = (
    "created_s",
    "deadline_s",
    "work",
    "bits_in",
    "bits_out",
    "since_s",
    "service_end_s",
    "holding_s",
    "waiting_s",
    "service_s",
    "transfer_s",
    "decision_s",
    "return_latency_s",
    "return_seconds_per_bit",
)
_TASK = struct.Struct(f"<q5i{len(NUMBERS)}d")


class WireError(Exception):
    """What was received is no frame of this protocol."""


@dataclass(slots=True)
class Task:
    """A task, or its result, on its way through the network. SI units; times are of the scenario's clock.

    Attributes:
        number: in the order of creation.
        origin: index of the node that made it.
        type: index of its task type.
        created_s: when it was made.
        deadline_s: absolute; infinite without one.
        work: instructions.
        bits_in: of the input.
        bits_out: of the result.
        node: index of the node where it was last.
        hops_left: of the result on its way back.
        since_s: when the present stage began.
        service_end_s: when its service ended.
        path: links travelled so far.
    """

    number: int
    origin: int
    type: int
    created_s: float
    deadline_s: float
    work: float
    bits_in: float
    bits_out: float
    node: int = 0
    hops_left: int = 0
    since_s: float = 0.0
    service_end_s: float = 0.0
    holding_s: float = 0.0
    waiting_s: float = 0.0
    service_s: float = 0.0
    transfer_s: float = 0.0
    decision_s: float = 0.0
    return_latency_s: float = 0.0
    return_seconds_per_bit: float = 0.0
    path: list[int] = field(default_factory=list)

    @property
    def hops(self) -> int:
        """Links that it has travelled."""
        return len(self.path)


def frame(kind: int, *parts: bytes | memoryview) -> bytes:
    """Return a frame; its body is made of the parts."""
    body = b"".join(parts)
    return _LENGTH.pack(len(body) + 1, kind) + body


def pack_hello(token: bytes, node: int) -> bytes:
    """Return the frame with which a node opens a connection."""
    return frame(HELLO, _HELLO.pack(token, node))


def read_hello(body: memoryview, token: bytes) -> int:
    """Return the index of the node that opens a connection.

    Raises:
        WireError: it does not know the token of this run.
    """
    if len(body) != _HELLO.size:
        raise WireError(f"a greeting of {len(body)} bytes")
    given, node = _HELLO.unpack(body)
    if not hmac.compare_digest(given, token):
        raise WireError("a greeting with another token")
    return node


def pack_broadcast(heard: Heard) -> bytes:
    """Return the frame of a broadcast."""
    return frame(
        BROADCAST,
        _BROADCAST.pack(heard.stamp_s, heard.tasks, heard.down, heard.free_s, heard.arrived, heard.arrived_work),
    )


def read_broadcast(body: memoryview) -> Heard:
    """Return the broadcast in a frame; errors as `read_task`."""
    if len(body) != _BROADCAST.size:
        raise WireError(f"a broadcast of {len(body)} bytes")
    stamp_s, tasks, down, free_s, arrived, arrived_work = _BROADCAST.unpack(body)
    if not all(math.isfinite(value) for value in (stamp_s, free_s, arrived_work)) or min(tasks, arrived) < 0:
        raise WireError("a broadcast with a number out of range")
    return Heard(stamp_s, tasks, free_s, down, arrived, arrived_work)


def pack_task(task: Task) -> bytes:
    """Return a task as bytes."""
    numbers = (getattr(task, name) for name in NUMBERS)
    head = _TASK.pack(task.number, task.origin, task.type, task.node, task.hops_left, task.hops, *numbers)
    return head + struct.pack(f"<{task.hops}i", *task.path)


def read_task(body: memoryview, nodes: int, links: int) -> Task:
    """Return the task at the beginning of a frame's body; what follows it is payload.

    Args:
        body: of the frame.
        nodes: of the network.
        links: directed ones, of the network.

    Raises:
        WireError: the bytes are no task of this network.
    """
    if len(body) < _TASK.size:
        raise WireError(f"a task of {len(body)} bytes")
    number, origin, kind, node, hops_left, hops, created_s, deadline_s, *others = _TASK.unpack_from(body)
    if not (0 <= hops <= MOST_HOPS and 0 <= hops_left <= hops and len(body) >= _TASK.size + 4 * hops):
        raise WireError("a task with a path that is none")
    path = list(struct.unpack_from(f"<{hops}i", body, _TASK.size))
    if not (0 <= origin < nodes and 0 <= node < nodes and number >= 0 and kind >= 0):
        raise WireError("a task of another network")
    if not all(0 <= link < links for link in path):
        raise WireError("a task that came over a link of another network")
    if math.isnan(deadline_s) or not all(math.isfinite(value) for value in (created_s, *others)):
        raise WireError("a task with a number out of range")
    numbers = dict(zip(NUMBERS[2:], others, strict=True))
    return Task(number, origin, kind, created_s, deadline_s, node=node, hops_left=hops_left, path=path, **numbers)


def pack_message(content: Mapping[str, Any]) -> bytes:
    """Return the frame of a message to or from the controller."""
    return frame(MESSAGE, json.dumps(content).encode())


def read_message(body: memoryview) -> dict[str, Any]:
    """Return the message in a frame.

    Raises:
        WireError: it is none.
    """
    try:
        content = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise WireError("a message that is not JSON") from error
    if not isinstance(content, dict) or not isinstance(content.get("kind"), str):
        raise WireError("a message without a kind")
    return content


def pack_arrays(content: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """Return the frame of a message with arrays, which are sent as bytes: the reader knows their types."""
    file = io.BytesIO()
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    raw = {name: np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8) for name, array in arrays.items()}
    head = json.dumps({"content": dict(content), "shapes": shapes}).encode()
    np.savez(file, allow_pickle=False, head=np.frombuffer(head, np.uint8), **raw)
    return frame(ARRAYS, file.getvalue())


def read_arrays(body: memoryview, types: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the message and the arrays in a frame.

    Args:
        body: of the frame.
        types: of the arrays by name; others are numbers of float32.

    Raises:
        WireError: it is none.
    """
    try:
        with np.load(io.BytesIO(bytes(body)), allow_pickle=False) as file:
            head = json.loads(file["head"].tobytes())
            arrays = {
                name: np.frombuffer(file[name].tobytes(), types.get(name, np.float32)).reshape(shape).copy()
                for name, shape in head["shapes"].items()
            }
            return head["content"], arrays
    except (ValueError, KeyError, OSError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise WireError("arrays that cannot be read") from error


def cut(buffer: bytearray, most_bytes: int) -> Iterator[tuple[int, memoryview]]:
    """Yield kind and body of the frames that are complete at the beginning of a buffer, and remove them from it.

    Raises:
        WireError: what is there begins no frame, or one of more than `most_bytes`.
    """
    while len(buffer) >= _LENGTH.size:
        length, kind = _LENGTH.unpack_from(buffer)
        if not 1 <= length <= most_bytes + 1 or kind not in KINDS:
            raise WireError(f"a frame of kind {kind} and {length} bytes")
        end = _LENGTH.size - 1 + length
        if len(buffer) < end:
            return
        body = memoryview(bytes(buffer[_LENGTH.size : end]))
        del buffer[:end]
        yield kind, body


class FrameReader(asyncio.Protocol):
    """One connection: it cuts what arrives into frames, and hands each to its owner.

    Attributes:
        transport: of the connection; None until it is made.
        node: index of the node at the other end, if it has said so.
    """

    def __init__(
        self,
        on_frame: Callable[[FrameReader, int, memoryview], None],
        on_lost: Callable[[FrameReader], None],
        on_error: Callable[[FrameReader, str], None],
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """Take what to call: with each frame, when the connection is lost, and before it is closed for an error."""
        self.transport: asyncio.Transport | None = None
        self.node: int | None = None
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._on_error = on_error
        self._most = most_bytes
        self._buffer = bytearray()
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand on the frames that are complete."""
        if self._closing:
            return
        self._buffer += data
        try:
            for kind, body in cut(self._buffer, self._most):
                self._on_frame(self, kind, body)
        except WireError as error:
            self._closing = True
            self._on_error(self, str(error))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        del exc
        self._on_lost(self)

    def send_at_once(self) -> None:
        """Let small frames leave without waiting for more (TCP_NODELAY)."""
        if self.transport is not None:
            self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def write(self, data: bytes) -> None:
        """Send, unless the connection is gone."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """End the connection when what was written has left."""
        if self.transport is not None:
            self.transport.close()
