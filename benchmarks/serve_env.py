"""Steps per second of a served environment: one environment, and batches, in JSON and in the binary form.

Usage: python benchmarks/serve_env.py [--env ether_12] [--seconds 3] [--envs 16 64 256]

Serves the environment from a process of its own, with one client on the same machine, and prints one table last. A
step of one environment is one request of `remote_env`, in which all agents observe. It is also given per second of CPU
that client and service use together, which depends less on what else the machine does (Linux). A step of a batch of E
is counted as E: each of its environments goes to its next decision, or through its next interval. Actions are 0;
episodes that end are reset within the time that is measured.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from offload_rllib import remote_env, remote_vector_env

FORMS = {"JSON": False, "binary": True}
WHENS = ("arrival", "interval")


def rate(step: Callable[[], int], seconds: float) -> float:
    """Return steps per second of a function that says how many it made."""
    for _ in range(20):
        step()
    made, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        made += step()
    return made / elapsed


def cpu_s(service: int) -> float:
    """Return the CPU time of this process and of the service; nan where /proc does not tell it."""
    try:
        fields = Path(f"/proc/{service}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def one_environment(url: str, when: str, seconds: float, service: int, *, binary: bool) -> tuple[float, float]:
    """Return steps of one environment per second, and per second of CPU."""
    env = remote_env(url, overrides=[f"decisions.when={when}"], binary=binary)
    env.reset(seed=0)

    def step() -> int:
        if not env.agents:
            env.reset()
        env.step({})
        return 1

    made, before = 0, cpu_s(service)

    def counted() -> int:
        nonlocal made
        made += step()
        return 1

    measured = rate(counted, seconds)
    per_cpu_s = made / (cpu_s(service) - before)
    env.close()
    return measured, per_cpu_s


def batch(url: str, when: str, envs: int, seconds: float, *, binary: bool) -> float:
    """Return environment steps per second of a batch."""
    env = remote_vector_env(url, envs, overrides=[f"decisions.when={when}"], binary=binary)
    env.reset(seed=0)
    actions = np.zeros(env.masks.shape[:-1], np.int32)

    def step() -> int:
        if env.step(actions):
            env.reset(environments=np.flatnonzero(env.truncated))
        return envs

    measured = rate(step, seconds)
    env.close()
    return measured


def main() -> None:
    """Start the service, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="ether_12")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--envs", type=int, nargs="+", default=[16, 64, 256])
    arguments = parser.parse_args()
    service = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-u", "-m", "offload_rllib", "serve-env", arguments.env, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = service.stdout or []
        url = next(line.split()[1] for line in lines if line.startswith("listening: "))
        rows = []
        for when in WHENS:
            for form, binary in FORMS.items():
                measured = [*one_environment(url, when, arguments.seconds, service.pid, binary=binary)]
                measured += [batch(url, when, envs, arguments.seconds, binary=binary) for envs in arguments.envs]
                rows.append((when, form, *(f"{value:,.0f}" for value in measured)))
    finally:
        service.terminate()
        service.wait()
    header = ("decisions", "form", "1 environment", "per CPU-second", *(f"batch of {envs}" for envs in arguments.envs))
    for row in (header, ("---", "---", *["---:"] * (len(header) - 2)), *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
