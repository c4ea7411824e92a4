"""A saved policy on Ray Serve: replicas, batching, a bounded queue, a listener."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import LoggingConfig
from starlette.applications import Starlette

from offload_rllib.config.decisions import Weights
from offload_rllib.policies.saved import unpacked, version_of
from offload_rllib.serving.app import make_app
from offload_rllib.serving.listener import Listener
from offload_rllib.serving.messages import Limits, Rows, act_together
from offload_rllib.simulator.types import Array

NAME = "offload-rllib"
# Most requests that are decided together. A batch does not wait to become full.
MOST_TOGETHER = 64
REQUEST_TIMEOUT_S = 30.0
# Requests that a replica reads at the same time. They cost little until their bodies are there, and requests that wait
# for an answer are counted separately (`Limits.waiting`).
MOST_READ = 16_384


@dataclass(frozen=True)
class PolicyListener(Listener):
    """The address of a service of a policy, and its size.

    Attributes:
        host: see `Listener`.
        port: see `Listener`.
        replicas: processes that decide.
        queue: requests that wait, of each replica; more are answered 503.
    """

    replicas: int = 1
    queue: int = 256


@serve.deployment(name="policy", max_ongoing_requests=MOST_READ)
@serve.ingress()
class PolicyService:
    """A replica: loads the policies it is handed, and decides for the requests that wait together."""

    def __init__(self, files: Mapping[str, bytes], limits: Limits, weights: Weights | None = None) -> None:
        """Load the policies.

        Args:
            files: from `policies.saved.packed`; handed over, so that no replica needs the disk they come from.
            limits: of a request.
            weights: of the objectives, for requests without any.
        """
        torch.set_num_threads(1)  # networks are small; replicas, not threads, use the other cores
        self.policy = unpacked(files)
        self.version = version_of(files)
        self.limits = limits
        self.weights = weights

    def __serve_build_asgi_app__(self) -> Starlette:
        """Return the application; Ray Serve calls it in the replica."""
        return make_app(self.policy, self.version, self.act, self.limits, self.weights)

    @serve.batch(max_batch_size=MOST_TOGETHER, batch_wait_timeout_s=0.0)
    async def act(self, requests: list[Rows]) -> list[Array]:
        """Return the actions of requests that wait together."""
        return act_together(self.policy, requests)

    def check_health(self) -> None:
        """Decide once; Ray Serve calls it regularly, and restarts a replica in which it raises."""
        size, actions = self.policy.description.observation_size, self.policy.description.actions
        self.policy.act(np.zeros((1, size), np.float32), np.ones((1, actions), np.int8), np.zeros(1, np.int64))


# What Serve's processes inherit from the Ray that is started: normal priority, because clients wait for them (Ray's
# niceness of 15 would starve them). Ray Serve's messages go to its own log files.
ENVIRONMENT = {
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_worker_niceness": "0",
}


def prepare_serving() -> None:
    """Set what Serve's processes inherit, where it is not set; to be called before Ray is started."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)


@contextmanager
def served(
    files: Mapping[str, bytes], listener: PolicyListener, limits: Limits, weights: Weights | None = None
) -> Iterator[None]:
    """Serve saved policies while the block runs, on the Ray that this process has.

    Args:
        files: from `policies.saved.packed`.
        listener: address and size.
        limits: of a request.
        weights: of the objectives, for requests without any.

    Raises:
        ConfigError: it cannot listen there.
    """
    listener.check_free()
    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host=listener.host, port=listener.port, request_timeout_s=REQUEST_TIMEOUT_S),
        logging_config=quiet,
    )
    try:
        deployment = PolicyService.options(num_replicas=listener.replicas, logging_config=quiet)
        waiting = limits.model_copy(update={"waiting": listener.queue})
        serve.run(deployment.bind(files, waiting, weights), name=NAME, route_prefix="/")
        yield
    finally:
        # Not serve.shutdown(): that kills the controller while it answers, of which Ray complains on the terminal.
        serve.delete(NAME)
