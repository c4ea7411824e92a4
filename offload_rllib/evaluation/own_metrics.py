"""Metrics of the user in evaluations: functions of the figures of an episode, named ``package.module:function``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from offload_rllib.config import ConfigError
from offload_rllib.config.base import is_function_path
from offload_rllib.evaluation.metrics import METRICS, metric_name
from offload_rllib.scenario.functions import load_function

Function = Callable[[Mapping[str, Any]], float]


def load_own_metrics(names: Iterable[str]) -> dict[str, Function]:
    """Return the functions among the names of metrics, each by the metric's name; it returns a number for an episode.

    Raises:
        ConfigError: one of them cannot be loaded, has the name of a metric that exists, or that of another one.
    """
    found: dict[str, Function] = {}
    for path in dict.fromkeys(filter(is_function_path, names)):
        name, where = metric_name(path), f"--metric {path}"
        if name in METRICS:
            raise ConfigError(f"{where}: '{name}' is a metric already; rename the function")
        if name in found:
            raise ConfigError(f"{where}: two metrics are called '{name}'; rename one of the functions")
        found[name] = _to_number(load_function(path, "--metric"), where)
    return found


def _to_number(function: Callable[..., Any], where: str) -> Function:
    def number(figures: Mapping[str, Any]) -> float:
        value = function(figures)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: must return a number for an episode, not {value!r}") from error

    return number
