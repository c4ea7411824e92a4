"""A function of the user's makes a network; what it returns is checked."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.topologies import environment, network_of

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.vector import held_out_keys, vector_env
from offload_rllib.scenario import build_scenario

DOCS = Path(__file__).parents[1] / "docs" / "topologies.md"


def documented_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the environment of the example in the docs, its module importable."""
    import yaml

    text = DOCS.read_text()
    module = next(code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def star" in code)
    described = next(code for code in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind: python" in code)
    (tmp_path / "my_networks.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return yaml.safe_load(described)


def test_a_function_of_the_users_makes_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = documented_example(tmp_path, monkeypatch)
    scenario = build_scenario(load_environment(environment(**content)))
    assert len(scenario.network.nodes) == 1 + content["topology"]["arguments"]["sensors"]
    env = vector_env(environment(**content), 2)
    env.reset(held_out_keys(0, 2))
    assert env.scenario_of(0).network != env.scenario_of(1).network
    for function, message in (
        ("no_such_module:star", r"topology.function: no_such_module:star: importing no_such_module failed"),
        ("my_networks:ring", r"has no function 'ring'"),
        ("my_networks:Network", r"topology.function: my_networks:Network raised TypeError.*unexpected keyword"),
    ):
        content["topology"]["function"] = function
        with pytest.raises(ConfigError, match=message):
            build_scenario(load_environment(environment(**content)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("nodes[1] = replace(nodes[1], core_speed=-1.0)", r"node 'n1': core_speed is -1.0; accepted: 0, or 1e-30 to"),
        ("nodes[1] = replace(nodes[1], core_speed=math.nan)", r"node 'n1': core_speed is nan"),
        ("nodes[1] = replace(nodes[1], cores=0)", r"node 'n1': cores is 0; accepted: a whole number from 1 up"),
        ("nodes[0] = replace(nodes[0], queue_capacity=0)", r"node 'n0': queue_capacity is 0; accepted: None, or"),
        ("nodes[0] = replace(nodes[0], position_m=(0.0, math.inf))", r"node 'n0': position_m is \(0.0, inf\)"),
        ("links[0] = (9, 9)", r"the link \(9, 9\) must be a pair of indices"),
        ("links[0] = (1, 0)", r"the link \(1, 0\) must be .* the smaller first"),
        ("nodes[0] / 0", r"bad_networks:pair raised TypeError.*bad_networks.py, line 9\)"),
    ],
)
def test_what_a_users_network_holds_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: str, message: str
) -> None:
    (tmp_path / "bad_networks.py").write_text(
        "import math\n"
        "from dataclasses import replace\n"
        "from offload_rllib.scenario.network import Network, Node\n"
        "def pair(seed):\n"
        "    place = (0.0, 0.0)\n"
        "    nodes = [Node(f'n{i}', 'x', place, cores=1, core_speed=1e6, queue_capacity=3, client=True)\n"
        "             for i in range(2)]\n"
        "    links = [(0, 1)]\n"
        f"    {changes}\n"
        "    return Network(tuple(nodes), tuple(links))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "bad_networks", raising=False)
    with pytest.raises(ConfigError, match=message):
        network_of({"kind": "python", "function": "bad_networks:pair"})
    monkeypatch.delitem(sys.modules, "bad_networks", raising=False)
