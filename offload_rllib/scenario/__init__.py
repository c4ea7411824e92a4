"""Scenarios: from a configuration to the arrays of the simulator. Knows nothing of time or learning."""

from offload_rllib.scenario.build import BuiltScenario, build_scenario

__all__ = ["BuiltScenario", "build_scenario"]
