"""The controller: it starts the hosts, lets their nodes find each other, starts the clock, and collects what happened.

No task passes through it. It holds one connection to every host and every node; when it ends, they end.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from offload_rllib.simulator.types import Array
from offload_rllib.testbed.launch import HostSpec, Launcher
from offload_rllib.testbed.playing import Fault, Outcome, Playing
from offload_rllib.testbed.setup import ARRAY_TYPES, Brain, Network, Options
from offload_rllib.testbed.wire import (
    ARRAYS,
    MESSAGE,
    MOST_CONTROL_BYTES,
    TOKEN_BYTES,
    FrameReader,
    WireError,
    pack_arrays,
    pack_message,
    read_arrays,
    read_message,
)

# For a host to load the package, which compiles kernels on its first use; for nodes to meet; for their last words.
LOADING_S = 600.0
MEETING_S = 60.0
LAST_WORDS_S = 20.0
# From the message to the start: all nodes must have it by then.
LEAD_S = 0.3
LOOK_S = 0.1


class TestbedError(RuntimeError):
    """The testbed could not play; the message says which part, and why."""

    __test__ = False  # for pytest, which would take it for a test by its name


class Controller:
    """A testbed that is up; use it as an asynchronous context."""

    def __init__(self, network: Network, options: Options, hosts: Sequence[HostSpec], launcher: Launcher) -> None:
        """Take what is played on, how, which nodes are where, and what starts the hosts."""
        self._network = network
        self._options = options
        self._hosts = {host.name: host for host in hosts}
        self._host_of = {n: host.name for host in hosts for n in host.nodes}
        self._launcher = launcher
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._connections: dict[str, FrameReader] = {}
        self._who: dict[FrameReader, str | int] = {}
        self._loaded: set[str] = set()
        self._playing: Playing | None = None
        self._plays = 0
        self._lost = ""
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Start the hosts, and give them the network.

        Raises:
            TestbedError: the port is taken, or a host does not start.
        """
        loop, launcher = asyncio.get_running_loop(), self._launcher
        try:
            self._server = await loop.create_server(self._accept, launcher.bind, launcher.port)
        except OSError as error:
            raise TestbedError(f"{launcher.bind}:{launcher.port}: {error.strerror or error}") from error
        port = self._server.sockets[0].getsockname()[1]
        try:
            for host in self._hosts.values():
                launcher.start(host, port, self._token)
            await self._until(lambda: self._connections.keys() == self._hosts.keys(), LOADING_S, self._missing_hosts)
            content, arrays = self._network.packed()
            about = {"kind": "network", "network": content, "options": self._options.__dict__}
            for reader in self._connections.values():
                reader.write(pack_arrays(about, arrays))
            await self._until(lambda: self._loaded == self._hosts.keys(), LOADING_S, self._missing_hosts)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all hosts, and with them their nodes."""
        self._close()

    def _close(self) -> None:
        if self._playing is not None:
            self._playing.close()
        for reader in list(self._who):
            reader.close()
        self._launcher.close()
        if self._server is not None:
            self._server.close()

    def _missing_hosts(self) -> str:
        missing = sorted(self._hosts.keys() - (self._loaded or self._connections.keys()))
        return f"host {', '.join(missing)}: no answer"

    def _refuse_trouble(self) -> None:
        """Raise TestbedError if a host is gone, or the play cannot continue."""
        of_play = self._playing.trouble if self._playing is not None else ""
        trouble = self._launcher.ended() or self._lost or of_play
        if trouble:
            raise TestbedError(trouble)

    async def _until(self, reached: Callable[[], bool], timeout_s: float, missing: Callable[[], str]) -> None:
        """Wait until something is reached.

        Raises:
            TestbedError: it is not in time, or there is trouble.
        """
        until = time.monotonic() + timeout_s
        while not reached():
            self._refuse_trouble()
            if time.monotonic() > until:
                raise TestbedError(f"{missing()} within {timeout_s:g} s")
            self._changed.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _accept(self) -> FrameReader:
        def forget(_reader: FrameReader, _reason: str) -> None:
            """Let a connection close that speaks another protocol: a stranger's mistakes are not reported."""

        return FrameReader(self._on_frame, self._on_lost, forget, MOST_CONTROL_BYTES)

    def _on_frame(self, reader: FrameReader, kind: int, body: memoryview) -> None:
        arrays: dict[str, Array] = {}
        if kind == MESSAGE:
            message = read_message(body)
        elif kind == ARRAYS and reader in self._who:
            message, arrays = read_arrays(body, ARRAY_TYPES)
        else:
            raise WireError(f"a frame of kind {kind} for the controller")
        who = self._who.get(reader)
        if who is None:
            self._greet(reader, message)
        elif isinstance(who, str):
            self._on_host(who, message)
        elif self._playing is not None:
            self._playing.on_message(who, reader, message, arrays)
        self._changed.set()

    def _greet(self, reader: FrameReader, message: dict[str, Any]) -> None:
        """Take the connection of a host or a node that knows the token of this run."""
        if not secrets.compare_digest(str(message.get("token")), self._token.hex()):
            raise WireError("a greeting with another token")
        if message["kind"] == "host":
            self._who[reader] = message["name"]
            self._connections[message["name"]] = reader
        elif self._playing is not None and message.get("play") == self._playing.number:
            n = self._who[reader] = int(message["node"])
            self._playing.join(n, reader, (self._hosts[self._host_of[n]].address, message["port"]), message["clock"])

    def _on_lost(self, reader: FrameReader) -> None:
        who = self._who.pop(reader, None)
        if isinstance(who, str):
            self._lost = f"host {who}: its process has ended, or cannot be reached any more"
        self._changed.set()

    def _on_host(self, name: str, message: dict[str, Any]) -> None:
        if message["kind"] == "loaded":
            self._loaded.add(name)
        elif message["kind"] == "failed":
            self._lost = f"host {name}: {message['reason']}"
        elif self._playing is not None and message.get("play") == self._playing.number:
            self._playing.on_exit(message["node"], message["code"], message["reason"])

    def _tell_host(self, n: int, kind: str) -> None:
        self._connections[self._host_of[n]].write(pack_message({"kind": kind, "node": n}))

    async def play(
        self,
        brain: Brain,
        key: int,
        arriving: Array,
        faults: Sequence[Fault] = (),
        *,
        first_port: int = 0,
        tell: Callable[[Playing], None] | None = None,
    ) -> Outcome:
        """Play an episode.

        Args:
            brain: how agents decide.
            key: of the episode.
            arriving: [n] ARRIVAL_ROW.
            faults: nodes that are to fail, and when.
            first_port: the first of the ports that nodes listen on, one each; 0 takes free ones.
            tell: called now and then during the play.

        Raises:
            TestbedError: nodes do not start, or do not reach each other.
        """
        self._plays += 1
        playing = self._playing = Playing(self._plays, self._network, self._options.speed, self._tell_host)
        content, weights = brain.packed()
        about = {"kind": "play", "play": playing.number, "key": int(key), "brain": content, "first_port": first_port}
        for name, host in self._hosts.items():
            mine = arriving[np.isin(arriving["origin"], host.nodes)]
            message = about | {"nodes": list(host.nodes)}
            self._connections[name].write(pack_arrays(message, weights | {"arriving": mine}))
        nodes = playing.nodes
        await self._until(
            lambda: playing.addresses.keys() == nodes, LOADING_S, lambda: playing.absent(playing.addresses)
        )
        playing.introduce_all()
        await self._until(lambda: playing.ready == nodes, MEETING_S, lambda: playing.absent(playing.ready))
        await playing.measure_clocks()
        self._refuse_trouble()
        playing.begin(LEAD_S, faults)
        await self._play_on(playing, tell)
        # The next play may want the same ports.
        await self._until(lambda: playing.gone >= nodes, LAST_WORDS_S, lambda: "the process of a node does not end")
        return playing.outcome()

    async def _play_on(self, playing: Playing, tell: Callable[[Playing], None] | None) -> None:
        """Wait until every node that is up has reported."""
        latest_s = playing.horizon_s + LAST_WORDS_S * self._options.speed
        while not playing.is_heard:
            self._refuse_trouble()
            if playing.now_s > latest_s:
                playing.notes.append(f"{playing.absent(playing.finals)} at the end of the play")
                break
            if tell is not None:
                tell(playing)
            await asyncio.sleep(LOOK_S)
        playing.close()
