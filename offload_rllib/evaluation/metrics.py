"""Metrics: the figures of an episode, with the titles, units and directions that tables and plots need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from offload_rllib.config import ConfigError
from offload_rllib.config.base import is_function_path
from offload_rllib.config.loading import nearest
from offload_rllib.envs.goal import COST, SCORE
from offload_rllib.simulator.metrics import OF_TYPE


@dataclass(frozen=True)
class Metric:
    """A figure of an episode (`simulator.metrics.summary`), or of the cost of deciding."""

    name: str
    title: str
    unit: str = ""
    """As shown; empty for a number without one."""
    factor: float = 1.0
    """From the figure to the unit shown."""
    lower_is_better: bool = True
    """Whether less is better; for neutral figures it only sets the order."""
    shown: bool = False
    """Whether tables and figures show it unless metrics are named, in the order of `METRICS`."""
    brief: str = ""
    """Its heading where a table must fit a terminal of 80 columns."""
    column: int = 0
    """Its column, from 1, in the terminal's table of policies; 0: not there."""
    type_column: int = 0
    """The same in the terminal's table for one type of tasks."""

    @property
    def label(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


def _share(name: str, title: str, **where: Any) -> Metric:
    return Metric(name, title, "%", 100.0, **where)


METRICS = {
    metric.name: metric
    for metric in (
        Metric(SCORE, "mean score", "s", shown=True, brief="score, s", column=1, type_column=1),
        Metric(COST, "mean cost", "s", shown=True),
        Metric("score_p50_s", "median score", "s", shown=True),
        Metric("score_p95_s", "95th percentile of the score", "s", shown=True, brief="p95, s", column=2),
        Metric("score_p99_s", "99th percentile of the score", "s", shown=True),
        Metric("response_mean_s", "mean response time", "s", shown=True, brief="done, s", column=4, type_column=4),
        Metric("response_p50_s", "median response time", "s", shown=True),
        Metric("response_p95_s", "95th percentile of the response time", "s", shown=True),
        Metric("response_p99_s", "99th percentile of the response time", "s", shown=True),
        _share("dropped_share", "tasks dropped", shown=True, brief="dropped, %", column=3, type_column=3),
        _share("dropped_queue_full_share", "dropped: queue full", shown=True),
        _share("dropped_expired_share", "dropped: expired", shown=True),
        _share("dropped_lost_share", "dropped: lost on a link", shown=True),
        _share("dropped_node_failed_share", "dropped: node failed", shown=True),
        _share("dropped_rejected_share", "dropped: rejected by the agent", shown=True),
        _share("missed_share", "deadlines missed", shown=True, brief="missed, %", type_column=2),
        _share("late_share", "finished late"),
        _share("unfinished_share", "unfinished at the end"),
        _share("overload", "time that nodes are full", shown=True, brief="full, %", column=6),
        _share("offloaded_share", "tasks offloaded", shown=True, brief="sent, %", column=5),
        Metric("occupancy_tasks", "tasks at a node"),
        Metric("fairness", "fairness among clients (Jain)", lower_is_better=False, shown=True),
        Metric("availability", "time that nodes are up", "%", 100.0, lower_is_better=False),
        Metric("cold_start_share", "services that began with a set-up", "%", 100.0, shown=True),
        Metric("energy_per_task_j", "energy per finished task", "J", shown=True),
        Metric("energy_j", "energy", "J"),
        Metric("energy_idle_j", "energy: idle", "J"),
        Metric("energy_compute_j", "energy: computing", "J"),
        Metric("energy_transmit_j", "energy: sending", "J"),
        Metric("energy_per_task", "energy per finished task (PeersimGym's unit)", shown=True),
        Metric("energy", "energy (PeersimGym's unit)"),
        Metric("energy_idle", "energy: idle (PeersimGym's unit)"),
        Metric("energy_compute", "energy: computing (PeersimGym's unit)"),
        Metric("energy_transmit", "energy: sending (PeersimGym's unit)"),
        Metric("price_per_task", "price per finished task", shown=True),
        Metric("price", "price"),
        Metric("price_compute", "price: computing"),
        Metric("price_transmit", "price: sending"),
        Metric("handovers", "handovers of a node that moves"),
        Metric("holding_mean_s", "held until decided", "s"),
        Metric("waiting_mean_s", "waiting in queues", "s"),
        Metric("service_mean_s", "in service", "s"),
        Metric("transfer_mean_s", "on the way there", "s"),
        Metric("return_mean_s", "on the way back", "s"),
        Metric("tasks_created", "tasks created"),
        Metric("tasks_finished", "tasks finished", lower_is_better=False),
        Metric("masked_actions", "actions that were not valid"),
    )
}
# The columns of the terminal's tables, from left to right.
COLUMNS = tuple(sorted((m for m in METRICS.values() if m.column), key=lambda m: m.column))
TYPE_COLUMNS = tuple(sorted((m for m in METRICS.values() if m.type_column), key=lambda m: m.type_column))


def metric_of(name: str) -> Metric:
    """Return the metric of a figure, for all tasks or one type of task; an unlisted figure gets its name as title."""
    figure, of, kind = name.partition(OF_TYPE)
    if of and figure in METRICS:
        return replace(METRICS[figure], name=name, title=f"{METRICS[figure].title}, {kind}")
    return METRICS.get(name) or Metric(name, name)


def metric_name(text: str) -> str:
    """Return the name of a metric; that of a function ``package.module:function`` is the function's."""
    return text.partition(":")[2] if is_function_path(text) else text


def types_of(reported: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the types of tasks of which figures are reported; none where all are of one type."""
    return tuple(dict.fromkeys(kind for name in reported if (kind := name.partition(OF_TYPE)[2])))


def chosen(names: Iterable[str], reported: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the metrics to show: those named, or the usual ones that are reported.

    Raises:
        ConfigError: a metric does not exist, or the environments do not report it.
    """
    names, reported = tuple(dict.fromkeys(map(metric_name, names))), set(reported)
    for name in names:
        if name in reported:
            continue
        why = "is not reported by these environments" if name in METRICS else "is not a metric"
        raise ConfigError(f"--metric '{name}': {why}.{nearest(name, reported)}")
    return names or tuple(metric.name for metric in METRICS.values() if metric.shown and metric.name in reported)
