"""The page on served environments, followed by a reader: the command, Python, curl and JavaScript, as they stand."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import finish, lines_until, start
from helpers.missing import unavailable
from helpers.pages import CHECKOUT, fenced
from helpers.services import BINARY, opened, send
from typer.testing import CliRunner

import offload_rllib
from offload_rllib.cli import app
from offload_rllib.config import ConfigError

PAGE = CHECKOUT / "docs" / "serving_environments.md"
DEFAULT = "http://127.0.0.1:8500"


def blocks(language: str) -> list[str]:
    """Return the page's blocks in a language."""
    return [text for found, text in fenced(PAGE) if found == language]


def needed(program: str) -> str:
    """Return the path of a program; skip without it, but not where the project's own tests run."""
    found = shutil.which(program)
    return found or unavailable(f"{program} is not installed")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the page's command on a free port; return the address; end it as a user does."""
    process = start(tmp_path_factory.mktemp("served"), "serve-env", "ether_12", "--port", "0")
    found = re.match(r"listening: (http://\S+) ", "".join(lines_until(process, "listening: ")[-1:]))
    assert found, finish(process)
    yield found[1]
    process.send_signal(signal.SIGINT)
    assert finish(process) == "stopped\n"
    assert process.returncode == 0


@pytest.mark.parametrize("text", blocks("python"))
def test_the_python_of_the_page_runs(url: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert DEFAULT in text
    exec(compile(text.replace(DEFAULT, url), "example", "exec"), {})  # noqa: S102 - our own page
    assert np.isfinite(json.loads(capsys.readouterr().out)).all()
    assert send(url, "GET", "/health")[1]["sessions"] == 0, "it closes its session"


def test_the_calls_with_curl_work_in_their_order(url: str) -> None:
    needed("curl")
    (script,) = blocks("shell")
    script = script.replace(DEFAULT, url).replace("\ncurl", "\necho; curl")
    done = subprocess.run(["sh", "-e"], input=script, capture_output=True, text=True, check=True, timeout=120)  # noqa: S607
    answers = [json.loads(line) for line in done.stdout.splitlines() if line]
    about, described, reset, one, two, destinations, metrics, closed = answers
    assert about["environment"] == "ether_12"
    assert [answer.get("call") for answer in (reset, one, two)] == [1, 2, 3]
    here = offload_rllib.parallel_env("ether_12")
    seen, _ = here.reset(seed=7)
    for answer, actions in ((one, {}), (two, {"rpi3_0": 1})):
        seen, rewards, *_ = here.step(actions)
        assert answer["rewards"] == list(rewards.values())
        assert answer["observations"] == [seen[agent]["observation"].tolist() for agent in here.agents]
        assert answer["deciding"] == here.deciding_agent
    assert described["agents"] == here.agents == list(destinations["destinations"])
    assert metrics == {"figures": []}
    assert closed == {"closed": True}


def shortest_finish_score() -> float:
    """Return the score of the episode that the page's JavaScript plays, played in the process."""
    here = offload_rllib.parallel_env("ether_12")
    finish_of = [i for i, name in enumerate(here.batch.layout.names) if name.endswith(".finish")]
    seen, infos = here.reset(seed=7)
    while here.agents:
        agent = here.deciding_agent or ""
        estimates = seen[agent]["observation"][finish_of]
        valid = seen[agent]["action_mask"].astype(bool)
        seen, _, _, _, infos = here.step({agent: int(np.where(valid, estimates, np.inf).argmin())})
    return infos[here.possible_agents[0]]["figures"]["score_mean_s"]


def test_the_client_in_javascript_plays_the_same_episode(url: str, tmp_path: Path) -> None:
    node = needed("node")
    program = tmp_path / "play.mjs"
    program.write_text(next(text for text in blocks("javascript") if text.startswith("// play.mjs")))
    done = subprocess.run([node, str(program), url], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == shortest_finish_score()
    assert send(url, "GET", "/health")[1]["sessions"] == 0, "it closes its session"


READER = """
import {decode} from "./binary.mjs";
import {readFileSync} from "node:fs";
const bytes = readFileSync(process.argv[2]);
const answer = decode(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const plain = (key, value) => ArrayBuffer.isView(value) ? Array.from(value, Number) : value;
console.log(JSON.stringify(answer, plain));
"""


def test_the_binary_form_is_read_in_javascript(url: str, tmp_path: Path) -> None:
    node = needed("node")
    (tmp_path / "binary.mjs").write_text(next(text for text in blocks("javascript") if "binary.mjs" in text))
    (tmp_path / "read.mjs").write_text(READER)
    path = opened(url, interface="vector", num_envs=3)
    plain = send(url, "POST", f"{path}/reset", {"seed": 1, "call": 1})[1]
    send(url, "DELETE", path)
    path = opened(url, interface="vector", num_envs=3)
    _, packed, _ = send(url, "POST", f"{path}/reset", {"seed": 1, "call": 1}, {"Accept": BINARY})
    send(url, "DELETE", path)
    (tmp_path / "answer").write_bytes(packed)
    done = subprocess.run(
        [node, "read.mjs", "answer"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert set(read) == set(plain)
    for name, value in plain.items():
        assert np.array_equal(np.ravel(value), np.ravel(read[name])), name


def test_the_command_refuses_what_it_cannot_do(url: str) -> None:
    port = url.rpartition(":")[2]
    for arguments, message in (
        (["ether_12", "--port", port], rf"--port {port}: cannot listen there: .*; choose another"),
        (["ether_13", "--port", "0"], r"'ether_13' is not a preset of envs/"),
        (["ether_12", "--port", "0", "--set", "horizon_s=-1"], r"horizon_s.*given: -1"),
        (["ether_12", "--port", "0", "--token", "with space"], r"token: must be printable ASCII characters"),
        (["ether_12", "--port", "0", "--host", "192.0.2.1"], r"--host 192.0.2.1 .*cannot listen there"),
    ):
        result = CliRunner().invoke(app, ["serve-env", *arguments])
        assert isinstance(result.exception, ConfigError), result
        assert re.search(message, str(result.exception)), result.exception


@pytest.mark.slow
def test_other_machines_need_the_token_that_is_printed(tmp_path: Path) -> None:
    process = start(tmp_path, "serve-env", "manual_5", "--port", "0", "--host", "0.0.0.0")  # noqa: S104 - with a token
    lines = lines_until(process, "listening: ")
    token = re.match(r"token: ([\w-]{43}) ", lines[0])
    found = re.match(r"listening: (http://127\.0\.0\.1:\d+) ", lines[-1])
    assert token, lines
    assert found, lines
    assert send(found[1], "POST", "/v1/sessions", {})[0] == 401
    env = offload_rllib.remote_env(found[1], token=token[1])
    env.reset(seed=0)
    env.close()
    process.send_signal(signal.SIGTERM)
    assert finish(process) == "stopped\n"
    assert process.returncode == 0
