"""Files for the devices of a testbed: each is what its tool takes, and no device needs torch."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path

import ray
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.scripts.scripts import start

from offload_rllib.config import load_environment
from offload_rllib.scenario.topology import build_network

ROOT = Path(__file__).parents[1]
FILES = ROOT / "scripts" / "testbed"
# What runs on a device: the process of a host, what Ray starts it with, and what both are made of.
ON_A_DEVICE = ["offload_rllib.testbed.ray_hosts", "offload_rllib.testbed.host"]
# Lets a process import what it is told, and nothing else that was installed.
GUARD = """
import importlib, sys
modules, refused = sys.argv[1].split(), set(sys.argv[2].split())
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ImportError(f"a device has no {name}")
sys.meta_path.insert(0, Guard())
for module in modules:
    importlib.import_module(module)
"""


def needed() -> list[str]:
    """Return the packages that a device gets, by their normal names."""
    lines = [line.partition("#")[0].strip() for line in (FILES / "requirements.txt").read_text().splitlines()]
    return [canonicalize_name(line) for line in lines if line]


def brought(names: list[str]) -> set[str]:
    """Return these packages and all that they need."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        wanted = [Requirement(text) for text in metadata.requires(name) or ()]
        left += [
            canonicalize_name(each.name) for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})
        ]
    return found


def test_a_device_gets_pinned_packages_and_no_torch() -> None:
    pinned = {
        canonicalize_name(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert set(needed()) <= pinned
    assert {"numba", "ray"} <= set(needed())
    assert not brought(needed()) & {"torch", "pandas", "tensorboard", "matplotlib"}


def test_what_runs_on_a_device_needs_no_more_than_it_gets() -> None:
    there = brought(needed()) | {"offload-rllib"}
    bundled = {path.name for path in (Path(ray.__file__).parent / "thirdparty_files").iterdir()}
    # A module that several packages share is there if one of them is.
    refused = [
        module
        for module, of in metadata.packages_distributions().items()
        if not {canonicalize_name(name) for name in of} & there and module not in bundled
    ]
    assert "torch" in refused
    call = [sys.executable, "-c", GUARD, " ".join(ON_A_DEVICE), " ".join(refused)]
    subprocess.run(call, check=True, timeout=300, cwd=ROOT)


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, lines that continue joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(words[0], words[2]) for line in joined if line.strip() and (words := line.partition(" "))]


def test_the_image_has_the_packages_of_a_device_and_starts_ray() -> None:
    found = instructions((FILES / "Dockerfile").read_text())
    assert {name for name, _ in found} <= {"FROM", "RUN", "COPY", "USER", "WORKDIR", "ENV", "ENTRYPOINT"}
    assert found[0][0] == "FROM"
    of = dict(found)
    *sources, target = of["COPY"].split()
    assert target.endswith("/")
    for source in sources:
        assert source.startswith("dist/") or (ROOT / source).is_file(), source
    (pip,) = [words for name, words in found if name == "RUN" and "pip install" in words]
    for name in ("constraints.txt", "requirements.txt"):
        assert f"/tmp/{name}" in pip  # noqa: S108 - in the image
    assert "--no-deps /tmp/offload_rllib-*.whl" in pip
    names = [name for name, _ in found]
    assert names.index("USER") < names.index("ENTRYPOINT"), "not as root"
    assert of["ENV"] == "RAY_AUTH_MODE=token RAY_worker_niceness=0"
    program, verb, *options = json.loads(of["ENTRYPOINT"])
    assert (program, verb) == ("ray", "start")
    parsed = start.make_context("start", [*options, "--address=head:6379"]).params
    assert parsed["block"]
    assert parsed["object_store_memory"] == 100_000_000


def test_the_service_starts_ray_with_the_token_and_again_if_it_ends() -> None:
    service = configparser.ConfigParser(interpolation=None, strict=False)
    service.optionxform = str  # pyright: ignore[reportAttributeAccessIssue] - names of systemd have capitals
    text = (FILES / "offload-node.service").read_text()
    service.read_string(text)
    assert service.sections() == ["Unit", "Service", "Install"]
    environment = dict(line.split("=", 2)[1:] for line in text.splitlines() if line.startswith("Environment="))
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_worker_niceness"] == "0", "timers of nodes would be late"
    of = service["Service"]
    command = of["ExecStart"].replace("${OFFLOAD_HEAD}", environment["OFFLOAD_HEAD"])
    assert "$" not in command
    program, verb, *options = shlex.split(command)
    assert Path(program).is_absolute(), "systemd takes no other"
    assert verb == "start"
    parsed = start.make_context("start", options).params
    assert parsed["block"], "otherwise systemd would take it for ended"
    assert parsed["address"] == environment["OFFLOAD_HEAD"]
    assert not parsed["head"]
    assert (of["User"], of["Restart"]) == ("ray", "always")
    assert service["Install"]["WantedBy"] == "multi-user.target"


def test_the_hosts_file_has_a_device_for_every_node() -> None:
    content = yaml.safe_load((FILES / "hosts.yaml").read_text())
    assert set(content) == {"hosts", "port"}
    assert 0 <= content["port"] < 2**16
    names = [node.name for node in build_network(load_environment("ether_12").topology).nodes]
    patterns = [pattern for of_one in content["hosts"].values() for pattern in of_one]
    given = Counter(name for pattern in patterns for name in names if fnmatchcase(name, pattern))
    assert given == Counter(names)
    assert all(any(fnmatchcase(name, pattern) for name in names) for pattern in patterns)


def test_the_page_shows_the_calls_of_the_files() -> None:
    page = (ROOT / "docs" / "testbed_devices.md").read_text()
    for name in ("Dockerfile", "offload-node.service", "requirements.txt", "hosts.yaml"):
        assert f"`{name}`" in page
    for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL):
        for path in re.findall(r"scripts/testbed/[\w.-]+", block):
            assert (ROOT / path).is_file(), path
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    rows = re.findall(r"^\| ([\w-]+) (\d[\w.]*) \|", page, re.MULTILINE)
    assert len(rows) >= 6
    for name, version in rows:
        assert {canonicalize_name(key): value for key, value in pinned.items()}[canonicalize_name(name)] == version
