"""What depends on the draw of a network ends no run in the middle: it is checked for all draws, or is no error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.environments import small_environment

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.build import redrawn
from offload_rllib.scenario.workload.load import offered_load

DEVICES = [
    {"type": "sensor", "share": 2, "instructions_per_second": 1e6, "client": True},
    {"type": "server", "share": 2, "instructions_per_second": 4e6},
]
RANDOM = {"kind": "random", "nodes": 6, "mean_degree": 1.5, "devices": DEVICES}
RING = {"kind": "ring", "nodes": 9, "devices": DEVICES}


def resampled(topology: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return an environment of which every episode draws its network."""
    return small_environment(topology=topology | {"resample": "episode"}, decisions={"max_destinations": 4}, **changes)


def test_an_override_may_match_a_link_in_some_episodes_only() -> None:
    override = {"between_types": ["server", "server"], "rate_bps": 123.0}
    content = resampled(RANDOM)
    scenario = build_scenario(load_environment(content | {"link_overrides": [override]}))
    found = [
        bool((redrawn(scenario, key).arrays.link["seconds_per_bit"] == 1 / 123.0).any())
        for key in held_out_keys(0, 40).tolist()
    ]
    assert any(found)
    assert not all(found)
    by_name = override | {"between": ["server_0", "server_1"], "between_types": None}
    assert build_scenario(load_environment(content | {"link_overrides": [by_name]})).network
    for wrong in ({"between_types": ["server", "serverr"]}, {"between": ["server_0", "server_7"]}):
        with pytest.raises(ConfigError, match=r"link_overrides.0: no link "):
            build_scenario(load_environment(content | {"link_overrides": [{"rate_bps": 1.0, **wrong}]}))


def test_a_rho_that_a_draw_cannot_offer_is_no_error() -> None:
    scenario = build_scenario(load_environment("geometric_20_resampled"))
    config, arrays = scenario.config, scenario.arrays
    entries, needed = scenario.arriving.entries, scenario.arriving.demand
    late = replace(needed, parts=tuple(replace(part, deadline_s=np.zeros(len(part.tasks))) for part in needed.parts))
    usable = np.ones(len(arrays.link), bool)
    with pytest.raises(ConfigError, match=r"no task could meet workload.deadline_s"):
        offered_load(config, scenario.network, arrays.link, usable, late, entries)
    assert offered_load(config, scenario.network, arrays.link, usable, late, entries, 0.25).rate_per_client == 0.25


def test_a_link_that_is_too_long_in_some_draw_is_refused_at_once() -> None:
    links = {"kind": "wireless", "transmit_power_dbm": -200}
    content = resampled(RING | {"area_m": [1e12, 1e12]}, links=links)
    with pytest.raises(ConfigError, match=r"links: a link across topology.area_m .* would have rate 0 bit/s"):
        build_scenario(load_environment(content))
