"""Where a service listens."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, replace
from typing import Self

from offload_rllib.config import ConfigError


@dataclass(frozen=True)
class Listener:
    """The address of a service.

    Attributes:
        host: address of an interface; loopback unless others are to reach it.
        port: TCP port; 0 takes a free one.
    """

    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def url(self) -> str:
        """Address for clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def bound(self) -> tuple[Self, socket.socket]:
        """Return the listener with its port, and a socket that is bound there.

        Raises:
            ConfigError: the host is not one of this machine's, or the port is taken.
        """
        probe = None
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            probe = socket.socket(family, kind, protocol)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        except OSError as error:
            if probe is not None:
                probe.close()
            reason = error.strerror or str(error)
            raise ConfigError(
                f"--host {self.host} --port {self.port}: cannot listen there: {reason}; choose another"
            ) from error
        return replace(self, port=probe.getsockname()[1]), probe

    def check_free(self) -> None:
        """Find out whether it can listen there; errors as `bound`."""
        self.bound()[1].close()
