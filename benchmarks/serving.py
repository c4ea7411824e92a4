"""Requests per second and latency of a served policy, at batches of 1 and 64 observations.

Usage: python benchmarks/serving.py [--seconds 5] [--clients 1 8]

Serves an untrained policy (two layers of 64) for ether_12 on Ray Serve on this machine, with clients on the same
machine, and prints one table last. Latency is from sending a request to having read its answer.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import torch

from offload_rllib import vector_env
from offload_rllib.cluster.connection import connect
from offload_rllib.config import load_policy_config
from offload_rllib.config.policy import Network
from offload_rllib.policies.saved import PolicyDescription, packed, save_policies
from offload_rllib.policies.sharing import assign_in
from offload_rllib.serving.deployment import PolicyListener, prepare_serving, served
from offload_rllib.serving.messages import Limits
from offload_rllib.training.train import quieten


def save_untrained(folder: Path) -> tuple[int, int]:
    """Save a shared policy with random weights for ether_12; return its numbers of observations and actions."""
    env = vector_env("ether_12", 1)
    assignment = assign_in(load_policy_config("ppo").sharing, env.scenario)
    description = PolicyDescription(
        algorithm="PPO",
        observation_size=env.observation_size,
        actions=env.num_actions,
        network=Network(hidden=(64, 64)),
        environment="",
        env_steps=0,
        sharing="shared",
        serves=dict(assignment.serves),
        agents=assignment.agents,
        policy_of=assignment.policy_of,
    )
    torch.manual_seed(0)
    save_policies(folder, description, {"shared": description.make_network().state_dict()})
    return env.observation_size, env.num_actions


def ask(port: int, body: bytes, until: float, times: list[float]) -> None:
    """Send requests one after another until a time, and keep how long each took, s."""
    connection = HTTPConnection("127.0.0.1", port)
    while time.perf_counter() < until:
        sent = time.perf_counter()
        connection.request("POST", "/v1/act", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise SystemExit(f"the service answered {response.status}")
        times.append(time.perf_counter() - sent)


def measure(port: int, rows: int, clients: int, sizes: tuple[int, int], seconds: float) -> str:
    """Return one row of the table."""
    rng = np.random.default_rng(0)
    observations = rng.uniform(-1, 1, (rows, sizes[0])).round(4).tolist()
    body = json.dumps({"observations": observations, "action_masks": [[1] * sizes[1]] * rows}).encode()
    ask(port, body, time.perf_counter() + 1, [])
    times: list[float] = []
    started = time.perf_counter()
    threads = [threading.Thread(target=ask, args=(port, body, started + seconds, times)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(times) / (time.perf_counter() - started)
    median, late = np.quantile(times, [0.5, 0.99]) * 1000
    return f"| {rows} | {clients} | {rate:,.0f} | {rate * rows:,.0f} | {median:.1f} | {late:.1f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    quieten()
    prepare_serving()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        sizes = save_untrained(Path(folder))
        with connect(), served(packed(Path(folder)), PolicyListener(port=port), Limits()):
            table = [
                measure(port, rows, clients, sizes, arguments.seconds)
                for rows in (1, 64)
                for clients in arguments.clients
            ]
    print("| batch | clients | requests/s | observations/s | median, ms | p99, ms |\n|---|---|---|---|---|---|")
    print("\n".join(table))


if __name__ == "__main__":
    main()
