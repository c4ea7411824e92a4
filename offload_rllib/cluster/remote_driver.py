"""Training from outside a cluster (``ray://``): the driver is a process in it, and only what it prints comes here.

A driver outside could neither write into the run's folder nor receive what Tune tells its callbacks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from offload_rllib.cluster.connection import ADDRESS_VARIABLE, RayOptions, connect

ASK_EVERY_S = 1.0


class RemoteDriver:
    """An actor that runs this package's command line on the node where it is."""

    def __init__(self, files: Mapping[str, str], arguments: Sequence[str], address: str) -> None:
        """Write the files into a folder of its own and start the command there.

        Args:
            files: content by name.
            arguments: of the command line.
            address: of the cluster, for its nodes.
        """
        folder = Path(tempfile.mkdtemp(prefix="offload-driver-"))
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - this package, with arguments that were parsed
                [sys.executable, "-m", "offload_rllib", *arguments],
                cwd=folder,
                env=os.environ | {ADDRESS_VARIABLE: address},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def news(self, offset: int) -> tuple[bytes, int | None]:
        """Return what was printed from a byte on, and the exit code if the command has ended."""
        code = self._process.poll()
        with self._output.open("rb") as output:
            output.seek(offset)
            return output.read(), code

    def stop(self) -> None:
        """Let it save a checkpoint and end."""
        self._process.send_signal(signal.SIGTERM)


def _gcs_address() -> str:
    return str(ray.get_runtime_context().gcs_address)


def run_there(
    options: RayOptions, files: Mapping[str, str], arguments: Sequence[str], write: Callable[[str], None]
) -> int:
    """Run a command in the cluster, and show what it prints; Ctrl-C lets it save a checkpoint and end.

    Args:
        options: with an address ``ray://``.
        files: that it reads, by name.
        arguments: of the command line, without an address.
        write: is given what it prints.

    Returns:
        Its exit code.

    Raises:
        ClusterError: the cluster cannot be reached, or a node has other versions.
    """
    with connect(options):
        address = ray.get(ray.remote(_gcs_address).options(num_cpus=0).remote())
        driver: Any = ray.remote(RemoteDriver).options(num_cpus=0).remote(dict(files), list(arguments), address)
        offset, code = 0, None
        while code is None:
            try:
                printed, code = ray.get(driver.news.remote(offset))
                offset += len(printed)
                if printed:
                    write(printed.decode(errors="replace"))
                if code is None:
                    time.sleep(ASK_EVERY_S)
            except KeyboardInterrupt:
                ray.get(driver.stop.remote())
        return code
