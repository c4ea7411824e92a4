"""What no node of the network has sent is refused, and costs a connection at most."""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

from offload_rllib.envs.node_view import Heard
from offload_rllib.testbed import wire
from offload_rllib.testbed.wire import FrameReader, Task, WireError

TOKEN = b"t" * wire.TOKEN_BYTES


def task(**changes: object) -> Task:
    """Return a task that has made two hops."""
    fields = {
        "number": 7,
        "origin": 1,
        "type": 0,
        "created_s": 1.5,
        "deadline_s": math.inf,
        "work": 2e6,
        "bits_in": 3e5,
        "bits_out": 1e4,
        "node": 2,
        "hops_left": 1,
        "since_s": 2.25,
        "service_end_s": 2.0,
        "holding_s": 0.125,
        "waiting_s": 0.25,
        "service_s": 0.5,
        "transfer_s": 0.75,
        "decision_s": 0.0625,
        "return_latency_s": 0.1,
        "return_seconds_per_bit": 1e-7,
        "path": [3, 5],
    }
    return Task(**(fields | changes))


def body(packed: bytes) -> memoryview:
    """Return the body of a frame."""
    (_, content), *rest = wire.cut(bytearray(packed), wire.MOST_BYTES)
    assert not rest
    return content


def test_what_is_sent_is_what_is_read() -> None:
    assert wire.read_task(memoryview(wire.pack_task(task()) + b"payload"), nodes=3, links=6) == task()
    heard = Heard(1.5, 4, 9.25, 1, 12, 3e7)
    assert wire.read_broadcast(body(wire.pack_broadcast(heard))) == heard
    assert wire.read_hello(body(wire.pack_hello(TOKEN, 4)), TOKEN) == 4
    types = {"whole": np.int64}
    sent = {"whole": np.arange(3), "real": np.ones((2, 2), np.float32), "none": np.zeros(0, np.float32)}
    content, arrays = wire.read_arrays(body(wire.pack_arrays({"kind": "x"}, sent)), types)
    assert content == {"kind": "x"}
    assert all(np.array_equal(arrays[name], sent[name]) and arrays[name].shape == sent[name].shape for name in sent)


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": 3},
        {"node": -1},
        {"number": -1},
        {"path": [3, 6]},
        {"path": [-1, 2]},
        {"work": math.nan},
        {"bits_in": math.inf},
        {"created_s": math.nan},
        {"deadline_s": math.nan},
        {"hops_left": 3},
    ],
    ids=str,
)
def test_a_task_of_another_network_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(WireError):
        wire.read_task(memoryview(wire.pack_task(task(**changes))), nodes=3, links=6)


def test_what_is_cut_short_is_refused() -> None:
    for length in range(len(wire.pack_task(task()))):
        with pytest.raises(WireError):
            wire.read_task(memoryview(wire.pack_task(task())[:length]), nodes=3, links=6)
    for read, packed in (
        (wire.read_broadcast, wire.pack_broadcast(Heard(1.0, 1, 1.0, 0, 0, 0.0))),
        (lambda content: wire.read_hello(content, TOKEN), wire.pack_hello(TOKEN, 1)),
        (lambda content: wire.read_arrays(content, {}), wire.pack_arrays({}, {"a": np.ones(3, np.float32)})),
        (wire.read_message, wire.pack_message({"kind": "x"})),
    ):
        with pytest.raises(WireError):
            read(body(packed)[:-1])
    with pytest.raises(WireError, match="another token"):
        wire.read_hello(body(wire.pack_hello(b"u" * wire.TOKEN_BYTES, 1)), TOKEN)
    for text in (b"[]", b"{}", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(WireError):
            wire.read_message(memoryview(text))
    for heard in (
        Heard(math.nan, 1, 1.0, 0, 0, 0.0),
        Heard(1.0, -1, 1.0, 0, 0, 0.0),
        Heard(1.0, 1, 1.0, 0, 0, math.inf),
    ):
        with pytest.raises(WireError):
            wire.read_broadcast(body(wire.pack_broadcast(heard)))


def test_a_reader_cuts_frames_wherever_the_network_cuts_them_and_ends_a_connection_that_sends_none() -> None:
    read: list[tuple[int, bytes]] = []
    errors: list[str] = []
    reader = FrameReader(
        lambda _, kind, content: read.append((kind, bytes(content))),
        lambda _: None,
        lambda _, reason: errors.append(reason),
    )
    sent = wire.frame(wire.END) + wire.frame(wire.PAYLOAD, b"abc", b"def") + wire.frame(wire.END)
    for i in range(len(sent)):
        reader.data_received(sent[i : i + 1])
    wanted = [(wire.END, b""), (wire.PAYLOAD, b"abcdef"), (wire.END, b"")]
    assert read == wanted
    reader.data_received(sent)
    assert read == wanted * 2
    assert not errors
    rng = np.random.default_rng(0)
    for noise in (
        struct.pack("<IB", 2**31, wire.TASK),
        struct.pack("<IB", 0, wire.END),
        b"GET / HTTP/1.1\r\n\r\n",
        rng.bytes(99),
    ):
        before, reader = (
            len(errors),
            FrameReader(lambda *_: None, lambda _: None, lambda _, reason: errors.append(reason)),
        )
        reader.data_received(noise)
        assert len(errors) == before + 1, noise
        reader.data_received(sent)
        assert len(errors) == before + 1, "nothing more is read from it"


def test_a_node_has_neither_torch_nor_ray_and_little_memory() -> None:
    program = (
        "import sys; from offload_rllib.testbed import host; from offload_rllib.testbed.processes import memory_bytes;"
        "print(*sorted({'torch', 'ray', 'pandas', 'pydantic'} & set(sys.modules)), memory_bytes()['resident_bytes'])"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    (resident,) = done.stdout.split()
    assert int(resident) < 130e6
