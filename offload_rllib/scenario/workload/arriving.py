"""The whole workload of an environment: what tasks need, when and where they arrive, as arrays of the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from offload_rllib.config.base import ends
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.workload import AlibabaJobs
from offload_rllib.config.workload.arrivals import JobTimes, Recorded, Replay, TableRate
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.score import type_priorities, type_weights
from offload_rllib.scenario.workload.alibaba import job_table
from offload_rllib.scenario.workload.demand import Demand, DrawnTasks, demand, drawn_tasks
from offload_rllib.scenario.workload.load import Entries, OfferedLoad, client_weights
from offload_rllib.scenario.workload.rates import RateShape, rate_shape, table_gives_rates
from offload_rllib.scenario.workload.recording import Recording, of_jobs, read_recording
from offload_rllib.simulator.arrivals import RECORDED


@dataclass(frozen=True)
class BuiltWorkload:
    """The workload of an environment, as arrays."""

    demand: Demand
    entries: Entries
    drawn: DrawnTasks
    jobs: np.ndarray
    """[J, 3] job table, empty if none is drawn from."""
    shape: RateShape
    recording: Recording | None
    recorded: Recorded | None
    weights: np.ndarray
    """[Y] of the types in the score."""
    priorities: np.ndarray
    """[Y] of the types in queues, int16."""
    notes: tuple[str, ...]

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the types of tasks."""
        return self.drawn.types

    def arrays(self, load: OfferedLoad) -> dict[str, Any]:
        """Return this part of a `Scenario`."""
        # Copies: the workload may be that of several networks, each with its own rates.
        arrivals, client = self.shape.record.copy(), self.shape.client.copy()
        record = arrivals[0]
        record["parameters_vary"] = self.drawn.vary
        record["rate_from"], record["rate_to"] = load.rate_from, load.rate_to
        rows = np.zeros(0, RECORDED)
        if self.recording is not None and self.recorded is not None:
            record["rate_from"], record["rate_to"] = ends(self.recorded.speed)
            record["recording_s"] = self.recording.duration_s if self.recorded.start == "random" else 0.0
            record["rows_have_sizes"] = self.recording.has_sizes
            record["rows_have_deadlines"] = self.recording.has_deadlines
            record["rows_have_types"] = bool(self.recording.types)
            rows = self.recording.rows
            nodes = np.arange(len(client))
            client["first_row"] = np.searchsorted(self.recording.origin, nodes, "left")
            client["end_row"] = np.searchsorted(self.recording.origin, nodes, "right")
        return {
            "arrivals": arrivals,
            "client": client,
            "recording": rows,
            "rate_piece": self.shape.pieces,
            "burst_state": self.shape.burst_state,
            "burst_jump": self.shape.burst_jump,
            "type_share": self.drawn.type_share,
            "type_weight": self.weights,
            "type_priority": self.priorities,
            "distribution": self.drawn.distribution,
            "distribution_to": self.drawn.distribution_to,
            "choice": self.drawn.choice,
            "job": self.jobs,
        }


def arriving_tasks(config: EnvironmentConfig, network: Network) -> BuiltWorkload:
    """Return what arrives.

    Raises:
        ConfigError: a file of the workload is missing or invalid, or names what the network has not.
    """
    workload = config.workload
    arrivals = workload.arrivals
    jobs, notes = np.zeros((0, 3)), ()
    recording = None
    if isinstance(workload.jobs, AlibabaJobs):
        trace = job_table(workload.jobs)
        jobs, notes = trace.jobs, trace.notes
        if isinstance(arrivals, JobTimes):
            recording = of_jobs(jobs, trace.arrival_s, network)
            jobs = jobs[:0]
    if isinstance(arrivals, Replay):
        recording = read_recording(arrivals, network)
    played = np.zeros(0)
    shape = rate_shape(arrivals, network, config.horizon_s)
    clients = np.array([node.client for node in network.nodes])
    if recording is not None and isinstance(arrivals, Recorded):
        played = recording.plays(arrivals, config.horizon_s)
        if not played.sum() > 0:
            raise ConfigError(
                f"workload.arrivals: the recording's first task comes after horizon_s ({config.horizon_s:g})"
            )
        total, nodes = played.sum(), len(clients)
        made = np.bincount(recording.origin, played, nodes)
        entries = Entries(
            client_rate=made / made[clients].mean(),
            share=np.bincount(recording.rows["node"], played, nodes) / total,
            rate=float(total / config.horizon_s),
        )
    else:
        weights = client_weights(workload.load, network) * shape.mean
        rate = None
        if isinstance(arrivals, TableRate):
            if table_gives_rates(arrivals):
                rate = float(weights.sum()) if workload.load is None else None
            elif workload.load is None:
                raise ConfigError(f"workload.load: missing; {arrivals.path} gives relative levels")
        entries = Entries(client_rate=weights / weights[clients].mean(), share=weights / weights.sum(), rate=rate)
    drawn = drawn_tasks(workload, recording.types if recording is not None else ())
    return BuiltWorkload(
        demand=demand(workload, jobs, recording, played),
        entries=entries,
        drawn=drawn,
        jobs=jobs,
        shape=shape,
        recording=recording,
        recorded=arrivals if isinstance(arrivals, Recorded) else None,
        weights=type_weights(config.score, drawn.types),
        priorities=type_priorities(config.priorities, drawn.types),
        notes=notes,
    )
