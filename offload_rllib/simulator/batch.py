"""The scenarios of a batch of environments in one struct: one that all share, or one for each."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.types import Array, Scenario

# What environments that draw their own network do not share.
OWN = ("settings", "node", "link", "link_law", "failure_law", "power", "destination", "arrivals", "client")


def shared(scenario: Scenario) -> Scenario:
    """Return a batch's scenarios where all environments share one: the same memory with a leading axis of 1."""
    return scenario._replace(**{name: getattr(scenario, name)[np.newaxis] for name in OWN})


def own_copies(scenario: Scenario, count: int) -> Scenario:
    """Return a batch's scenarios where each of `count` environments has its own: copies of `scenario`."""
    return scenario._replace(**{name: np.repeat(getattr(scenario, name)[np.newaxis], count, axis=0) for name in OWN})


def put(scenarios: Scenario, e: int, scenario: Scenario) -> Scenario:
    """Return a batch's scenarios with that of environment `e` replaced, in place if its links fit.

    Links beyond those of an environment are padding: no node refers to them.
    """
    needed, room = len(scenario.link), scenarios.link.shape[1]
    if needed > room:
        wider = {}
        for name in ("link", "link_law"):
            values: Array = getattr(scenarios, name)
            wider[name] = np.zeros((len(values), needed), values.dtype)
            wider[name][:, :room] = values
        scenarios = scenarios._replace(**wider)
    for name in OWN:
        values = getattr(scenario, name)
        getattr(scenarios, name)[e, : len(values)] = values
    return scenarios
