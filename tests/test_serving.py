"""A served policy decides as the loaded one, and refuses what it cannot answer without falling over."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from helpers.command_line import lines_until
from helpers.environments import make_env, small_environment, typed_environment, with_choices
from helpers.policies import kept

from offload_rllib import load_policy
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.remote.connection import Connection, ServiceError
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.policies.remote import RemotePolicy
from offload_rllib.policies.saved import SavedPolicy, packed, version_of
from offload_rllib.serving.app import make_app
from offload_rllib.serving.http import Places, RefusedError
from offload_rllib.serving.listener import Listener
from offload_rllib.serving.messages import Limits, Rows, act_together
from offload_rllib.simulator.types import Array

ROWS = 64
WAITING = 40


def serve_in_thread(policy: SavedPolicy, version: str) -> tuple[uvicorn.Server, str]:
    """Serve the application on a free port of loopback; return the server and its address."""

    async def act(rows: Rows) -> Array:
        return act_together(policy, [rows])[0]

    app = make_app(policy, version, act, Limits(rows=ROWS, body_bytes=2**20, body_s=3.0, waiting=WAITING))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return server, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Return the address of a service of three policies, one per type of device, and their folder."""
    folder = tmp_path_factory.mktemp("serving")
    policy = kept(folder, make_env(typed_environment()), "per_device")
    server, url = serve_in_thread(policy, version_of(packed(folder)))
    yield url, folder
    server.should_exit = True


def post(url: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Return status and content of the answer to a body."""
    connection = http.client.HTTPConnection(url.partition("://")[2], timeout=30)
    connection.request("POST", "/v1/act", body, headers or {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def good(url: str) -> dict[str, Any]:
    """Return a request that is answered."""
    description = RemotePolicy(url).description
    return {
        "observations": [[0.5] * description.observation_size] * 2,
        "action_masks": [[1] * description.actions] * 2,
        "agents": [description.agents[0], description.agents[-1]],
    }


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_service_decides_as_the_loaded_policy(service: tuple[str, Path], *, deterministic: bool) -> None:
    url, folder = service
    env = with_choices(make_env(typed_environment(), 8))
    local, remote = load_policy(folder).on(env), load_policy(url).on(env)
    for policy in (local, remote):
        policy.seed(3)
    for _ in range(4):
        mine = local(env.observations, env.masks, deterministic=deterministic)
        assert (mine == remote(env.observations, env.masks, deterministic=deterministic)).all()
        env.step(mine.astype(np.int32))


def test_a_served_policy_of_the_other_form_is_refused_by_its_address(tmp_path: Path) -> None:
    policy = kept(tmp_path, make_env(typed_environment()), decides="interval")
    server, url = serve_in_thread(policy, version_of(packed(tmp_path)))
    with pytest.raises(ConfigError, match=rf"{url}: this policy was trained with decisions.when: interval"):
        load_policy(url).on(make_env(small_environment(decisions={"when": "arrival"})))
    server.should_exit = True


def test_the_simulator_driven_through_a_service_ends_with_the_same_figures(service: tuple[str, Path]) -> None:
    url, folder = service
    config = load_environment(typed_environment())
    served = evaluate(config, make_contenders([url]), episodes=3)
    loaded = evaluate(config, make_contenders([str(folder)]), episodes=3)
    for mine, theirs in zip(loaded.policies, served.policies, strict=True):
        for metric in loaded.metrics:
            np.testing.assert_array_equal(loaded.of(mine, metric), served.of(theirs, metric))


def test_every_answer_names_the_version_of_the_policy(service: tuple[str, Path]) -> None:
    url, folder = service
    status, answer = post(url, json.dumps(good(url)).encode())
    assert status == 200
    assert answer["version"] == version_of(packed(folder))
    assert len(answer["actions"]) == 2
    connection = Connection(url)
    assert connection.get("/health") == {"status": "ok", "version": answer["version"]}
    assert connection.get("/v1/policy")["limits"]["rows"] == ROWS
    assert "observations" in connection.get("/v1/schema")["properties"]


def test_draws_are_repeated_by_their_seed(service: tuple[str, Path]) -> None:
    url, _ = service
    request = good(url) | {"deterministic": False}
    _, first = post(url, json.dumps(request).encode())
    assert first["seed"] is not None
    _, again = post(url, json.dumps(request | {"seed": first["seed"]}).encode())
    assert again == first


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"observations": [[1.0], [2.0]]}, 422, r"takes \d+ observations"),
        ({"observations": [[1.0, 2.0], [2.0]]}, 422, r"observations.1: 1 numbers; row 0 has 2"),
        ({"observations": []}, 422, r"action_masks: 2 rows; observations have 0"),
        ({"observations": "none"}, 422, r"observations"),
        ({"observations": [[None], [1.0]]}, 422, r"observations"),
        ({"action_masks": [[1, 0]]}, 422, r"action_masks: 1 rows; observations have 2"),
        ({"action_masks": [[7], [1]]}, 422, r"action_masks"),
        ({"agents": ["nobody", "nobody"]}, 422, r"agents.0: 'nobody' is unknown"),
        ({"agents": []}, 422, r"name the agents or the policies"),
        ({"agent": []}, 422, r"agent: unknown key"),
        ({"seed": 3}, 422, r"seed and rows are for deterministic: false"),
    ],
)
def test_malformed_requests_are_refused_with_the_key(
    service: tuple[str, Path], changes: dict[str, Any], status: int, reason: str
) -> None:
    url, _ = service
    given, answer = post(url, json.dumps(good(url) | changes).encode())
    assert (given, list(answer)) == (status, ["error"])
    assert re.search(reason, answer["error"]), answer["error"]
    assert post(url, json.dumps(good(url)).encode())[0] == 200, "it goes on answering"


def test_no_json_no_valid_action_infinity_and_too_much_are_refused(service: tuple[str, Path]) -> None:
    url, _ = service
    request = good(url)
    width, actions = len(request["observations"][0]), len(request["action_masks"][0])
    assert post(url, b"{not json")[0] == 400
    assert post(url, b"\xff\xfe")[0] == 400
    huge = json.dumps(request | {"observations": [[1e300] * width] * 2})
    assert "too large for float32" in post(url, huge.encode())[1]["error"]
    assert post(url, huge.replace("1e+300", "Infinity").encode())[0] in (400, 422)
    assert (
        "no valid action" in post(url, json.dumps(request | {"action_masks": [[0] * actions] * 2}).encode())[1]["error"]
    )
    many = {key: [value[0]] * (ROWS + 1) for key, value in request.items()}
    assert post(url, json.dumps(many).encode())[0] == 413
    # The length alone: an answer that comes before the body is sent would break the pipe.
    assert post(url, b"", {"Content-Length": str(2**20 + 1)})[0] == 413
    assert post(url, json.dumps(request).encode())[0] == 200


def test_a_flood_of_requests_is_answered(service: tuple[str, Path]) -> None:
    url, _ = service
    body = json.dumps(good(url)).encode()
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: post(url, body), range(200)))
    assert {status for status, _ in answers} == {200}
    assert len({json.dumps(answer) for _, answer in answers}) == 1


def unfinished(url: str, count: int) -> list[socket.socket]:
    """Return connections that have announced a body and send none."""
    host, _, port = url.partition("://")[2].rpartition(":")
    connections = [socket.create_connection((host, int(port)), timeout=60) for _ in range(count)]
    for connection in connections:
        connection.sendall(b"POST /v1/act HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
    return connections


def test_bodies_that_do_not_come_hold_no_places_and_have_a_deadline(service: tuple[str, Path]) -> None:
    url, _ = service
    silent = unfinished(url, 4 * WAITING)
    assert post(url, json.dumps(good(url)).encode())[0] == 200
    for connection in silent:
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        connection.close()


def test_more_requests_than_there_are_places_are_told_so() -> None:
    places = Places(2)
    with places.one(), places.one():
        with pytest.raises(RefusedError, match="full") as refused, places.one():
            pass
        assert refused.value.status == 503
    with places.one():
        pass


def test_addresses_that_answer_nothing_or_something_else_are_named(service: tuple[str, Path]) -> None:
    port = 1  # of a service that is extinct; a free one might be handed to another test
    with pytest.raises(ServiceError, match=f"http://127.0.0.1:{port}: no answer from a service"):
        RemotePolicy(f"http://127.0.0.1:{port}")
    with pytest.raises(ConfigError, match="not the address of a service"):
        RemotePolicy("http://")
    taken = int(service[0].rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"--port {taken}: cannot listen there"):
        Listener(port=taken).check_free()
    assert not Listener(host="0.0.0.0").is_loopback  # noqa: S104 - nothing listens
    assert Listener().is_loopback


@pytest.mark.slow
def test_ray_serve_answers_refuses_floods_and_stops_cleanly(tmp_path: Path) -> None:
    environment = small_environment()
    kept(tmp_path / "policy", make_env(environment))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "offload_rllib", "serve", str(tmp_path / "policy"), "--port", str(port), "--queue", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"RAY_raylet_start_wait_time_s": "180"},
    )
    lines = lines_until(process, "listening: ")
    url = f"http://127.0.0.1:{port}"
    assert f"listening: {url}/v1/act" in "".join(lines), lines
    config = load_environment(environment)
    served = evaluate(config, make_contenders([url]), episodes=2)
    loaded = evaluate(config, make_contenders([str(tmp_path / "policy")]), episodes=2)
    for mine, theirs in zip(loaded.policies, served.policies, strict=True):
        np.testing.assert_array_equal(loaded.of(mine, "score_mean_s"), served.of(theirs, "score_mean_s"))
    request = {key: value for key, value in good(url).items() if key != "agents"}
    heavy = json.dumps({key: value[:1] * 2000 for key, value in request.items()}).encode()

    def status_of(_: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/v1/act", heavy, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status

    with ThreadPoolExecutor(300) as pool:
        statuses = set(pool.map(status_of, range(600)))
    assert statuses <= {200, 503}
    silent = unfinished(url, 150)  # more than may wait
    assert post(url, json.dumps(request).encode())[0] == 200
    for connection in silent:
        connection.close()
    assert post(url, json.dumps(request).encode())[0] == 200
    assert post(url, b"{")[0] == 400
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 0, output
    assert "stopped" in output
    assert "Traceback" not in output
