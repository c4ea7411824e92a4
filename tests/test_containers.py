"""What images are made of exists, and what they play while they are built needs nothing that they lack."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from helpers.command_line import parse
from helpers.pages import CHECKOUT

from offload_rllib.config import load_environment
from offload_rllib.config.workload import AlibabaJobs

IMAGES = [CHECKOUT / "Dockerfile", CHECKOUT / "scripts" / "cluster" / "kuberay" / "Dockerfile"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each with its arguments on one line."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", IMAGES, ids=["command_line", "kuberay"])
def test_an_image_is_made_of_what_exists(path: Path) -> None:
    found = instructions(path)
    known = {"FROM", "RUN", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD", "ENV"}
    assert {name for name, _ in found} <= known
    assert found[0] == ("FROM", "python:3.11-slim-bookworm")
    assert [name for name, _ in found].count("USER") == 1, "it does not run as root"
    for name, arguments in found:
        if name == "COPY":
            for source in shlex.split(arguments)[:-1]:
                assert source.startswith("dist/") or (CHECKOUT / source).exists(), source
    given = " ".join(arguments for name, arguments in found if name == "RUN")
    extras = set(re.findall(r"\[([\w,]+)\]", given)[0].split(","))
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert extras <= set(project["optional-dependencies"])
    (warming,) = re.findall(r"offload-rllib ([^&]+)", given)
    options = parse(shlex.split(warming))
    assert not isinstance(load_environment(options["env"]).workload.jobs, AlibabaJobs) or "alibaba" in extras
    for name, arguments in found:
        if name in ("ENTRYPOINT", "CMD"):
            json.loads(arguments)


def test_the_image_of_the_command_line_gets_what_the_build_needs() -> None:
    kept = re.findall(r"^!(.+)$", (CHECKOUT / ".dockerignore").read_text(), re.MULTILINE)
    assert all((CHECKOUT / name).exists() for name in kept)
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"], "LICENSE", "pyproject.toml"}
    assert needed <= set(kept)
    assert dict(instructions(IMAGES[0]))["ENTRYPOINT"] == '["offload-rllib"]'
    assert "offload-rllib" in project["project"]["scripts"]
