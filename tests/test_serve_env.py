"""A served environment refuses what it cannot answer, says why, and stays whole; its sessions are bounded."""

from __future__ import annotations

import gc
import json
import re
import socket
import struct
import sys
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers.environments import ARRIVAL, small_environment
from helpers.services import BINARY, JSON, opened, send, served, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from safetensors.numpy import load, save

import offload_rllib
from offload_rllib.envs.remote.connection import ServiceError
from offload_rllib.serving.environments.messages import CreateRequest, SessionLimits
from offload_rllib.serving.environments.sessions import Sessions
from offload_rllib.serving.http import RefusedError

BODY_BYTES = 50_000


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the file of an environment in which decisions come with arrivals."""
    return written(tmp_path_factory.mktemp("env"), small_environment(decisions=ARRIVAL))


@pytest.fixture(scope="module")
def url(env: str) -> Iterator[str]:
    """Return the address of a service."""
    with served(env, sessions=100, body_bytes=BODY_BYTES, body_s=2.0) as (address, _):
        yield address


def binary(arrays: dict[str, Any], values: Any = None) -> bytes:
    """Return a request in the binary form."""
    return save(arrays, {"values": json.dumps(values or {})})


@pytest.mark.parametrize(
    ("request_", "status", "field", "reason"),
    [
        ({"actions": [0, 0, 0]}, 422, "actions", r"shape \[3\] is not accepted; accepted: shape \[4\] \(agents\)"),
        ({"actions": [0, 0, 0, 9]}, 422, "actions.d", r"actions.d: 9 is not accepted; accepted: integers from 0 to 2"),
        ({"actions": [0, -1, 0, 0]}, 422, "actions.b", r"actions.b: -1 is not accepted"),
        ({"actions": [0, 0, 0, 10**30]}, 422, "actions", r"numbers beyond 64 bits"),
        ({"actions": [0, 0, 0, 0.5]}, 422, "actions.3", r"valid integer.*0.5"),
        ({"actions": [0, 0, 0, True]}, 422, "actions.3", r"valid integer.*True"),
        ({"actions": [[0], [0], [0], [0]]}, 422, "actions", r"shape \[4, 1\]"),
        ({"actions": [[0], [0, 1]]}, 422, "actions", r"rows of different lengths"),
        ({"actions": {"nobody": 1}}, 422, "actions", r"'nobody' is not accepted; accepted: agents: a, b, c, d"),
        ({"actions": {"a": "x"}}, 422, "actions.a", r"valid integer.*'x'"),
        ({"actions": {"a": [1, 2]}}, 422, "actions.a", r"shape \[2\]"),
        ({"actions": None}, 422, "actions", r"actions"),
        ({"action": [0]}, 422, "actions", r"missing"),
        ({"actions": [0] * 4, "steps": 3}, 422, "steps", r"unknown key; accepted: call, actions"),
        ({"actions": [0] * 4, "call": 7}, 409, "call", r"7 is not accepted; accepted: 2, the next call, or 1"),
        ([1, 2], 422, None, r"whole body"),
    ],
)
def test_wrong_actions_are_refused_by_key_and_the_session_stays_usable(
    url: str, request_: Any, status: int, field: str | None, reason: str
) -> None:
    path = opened(url)
    send(url, "POST", f"{path}/reset", {"seed": 1})
    given, answer, _ = send(url, "POST", f"{path}/step", request_)
    assert given == status, answer
    assert re.search(reason, answer["error"], re.DOTALL), answer["error"]
    if "field" in answer and field != "actions":
        assert answer["field"] == field
    given, answer, _ = send(url, "POST", f"{path}/step", {"actions": {"a": 1}, "call": 2})
    assert (given, answer["call"]) == (200, 2), "what was refused was not counted, and changed nothing"
    send(url, "DELETE", path)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not a message in safetensors"),
        (b"\x00" * 7, "not a message in safetensors"),
        (struct.pack("<Q", 2**63) + b"{}", "not a message in safetensors"),
        (struct.pack("<Q", 4) + b"nope", "not a message in safetensors"),
        (binary({"actions": np.zeros(4, np.int32)})[:-1], "not a message in safetensors"),
        (binary({"actions": np.zeros(4, np.float32)}), "float32 is not accepted; accepted: integers"),
        (binary({"actions": np.full(4, np.nan)}), "float64 is not accepted"),
        (binary({"actions": np.zeros(4, np.bool_)}), "bool is not accepted"),
        (binary({"actions": np.zeros((4, 1), np.int8)}), r"shape \[4, 1\] is not accepted"),
        (binary({"actions": np.full(4, 2**64 - 1, np.uint64)}), "18446744073709551615 is not accepted"),
        (binary({"rewards": np.zeros(4, np.int32)}), "array 'rewards' is not accepted here; accepted: actions"),
        (binary({"actions": np.zeros(4, np.int32)}, [1]), "whole body"),
        (binary({"actions": np.zeros(4, np.int32)}, {"call": 1.5}), "call"),
        (save({"actions": np.zeros(4, np.int32)}, {"values": "{"}), "not a message in safetensors"),
    ],
)
def test_wrong_bytes_are_refused_and_the_session_stays_usable(url: str, body: bytes, reason: str) -> None:
    path = opened(url)
    send(url, "POST", f"{path}/reset", {"seed": 1})
    status, answer, _ = send(url, "POST", f"{path}/step", body, {"Content-Type": BINARY})
    assert status in (400, 422), answer
    assert re.search(reason, answer["error"]), answer["error"]
    good = binary({"actions": np.zeros(4, np.uint8)}, {"call": 2})
    assert send(url, "POST", f"{path}/step", good, {"Content-Type": BINARY})[0] == 200
    send(url, "DELETE", path)


@pytest.mark.parametrize(
    ("path", "body", "field", "reason"),
    [
        ("", {"interface": "aec"}, "interface", r"'parallel' or 'vector'"),
        ("", {"num_envs": 0, "interface": "vector"}, "num_envs", r"greater than or equal to 1"),
        ("", {"num_envs": 2}, "num_envs", r"2 is not accepted; accepted: 1 with interface: parallel"),
        ("", {"interface": "vector", "num_envs": 10**6}, "num_envs", r"integers from 1 to 1024"),
        ("", {"overrides": ["horizon_s"]}, "overrides", r"must be KEY=VALUE"),
        ("", {"overrides": ["horizon_s=-1"]}, "overrides", r"horizon_s.*-1"),
        ("", {"overrides": "horizon_s=1"}, "overrides", r"valid array"),
        ("", {"overrides": ["a=1"] * 101}, "overrides", r"at most 100"),
        ("/reset", {"seed": -1}, "seed", r"greater than or equal to 0.*-1"),
        ("/reset", {"seed": 1.5}, "seed", r"valid integer"),
        ("/reset", {"seed": 1, "keys": [1]}, "keys", r"only with interface: vector"),
        ("/reset", {"environments": [0]}, "environments", r"only with interface: vector"),
    ],
)
def test_wrong_sessions_and_resets_are_refused_by_key(url: str, path: str, body: Any, field: str, reason: str) -> None:
    before = opened(url)
    status, answer, _ = send(url, "POST", f"{before}{path}" if path else "/v1/sessions", body)
    assert (status, answer["field"]) == (422, field), answer
    assert re.search(reason, answer["error"], re.DOTALL), answer["error"]
    assert {"error", "field", "value", "accepted"} == set(answer)
    assert send(url, "POST", f"{before}/reset", {})[0] == 200
    send(url, "DELETE", before)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"keys": [1, 2, 3]}, r"3 keys is not accepted; accepted: 2, one for each"),
        ({"keys": [1, 2**64]}, r"keys"),
        ({"keys": ["1", "99999999999999999999"]}, r"99999999999999999999 is not accepted"),
        ({"keys": [1, 2], "seed": 1}, r"seed or keys, not both"),
        ({"environments": [2]}, r"environment: 2 is not accepted; accepted: integers from 0 to 1"),
        ({"environments": [1, 1]}, r"each once"),
        ({"environments": []}, r"at least one"),
    ],
)
def test_wrong_resets_of_batches_are_refused_by_key(url: str, body: Any, reason: str) -> None:
    path = opened(url, interface="vector", num_envs=2)
    assert send(url, "POST", f"{path}/reset", {"keys": ["17", 18]})[0] == 200, "keys as text or numbers"
    status, answer, _ = send(url, "POST", f"{path}/reset", body)
    assert status == 422, answer
    assert re.search(reason, answer["error"], re.DOTALL), answer["error"]
    send(url, "DELETE", path)


def test_requests_that_the_state_does_not_allow_are_answered_409_and_404(url: str) -> None:
    path = opened(url)
    status, answer, _ = send(url, "POST", f"{path}/step", {"actions": [0] * 4})
    assert (status, answer["accepted"]) == (409, "reset")
    assert send(url, "GET", f"{path}/metrics?environments=0")[0] == 409
    assert send(url, "GET", f"{path}/metrics")[1] == {"figures": []}
    send(url, "POST", f"{path}/reset", {"seed": 0})
    assert send(url, "GET", f"{path}/metrics?environments=0")[0] == 409
    assert send(url, "GET", f"{path}/closing")[0] == 409
    assert send(url, "GET", f"{path}/metrics?environments=1")[0] == 422
    assert send(url, "GET", f"{path}/metrics?environments=x")[0] == 422
    while not (answer := send(url, "POST", f"{path}/step", {"actions": [0] * 4})[1])["truncated"]:
        pass
    assert set(answer["figures"]) < set(send(url, "GET", f"{path}/metrics")[1]["figures"][0])
    status, answer, _ = send(url, "POST", f"{path}/step", {"actions": [0] * 4})
    assert (status, answer["accepted"]) == (409, "reset")
    assert send(url, "DELETE", path)[:2] == (200, {"closed": True})
    for method, tail in (("POST", "/step"), ("GET", ""), ("DELETE", ""), ("GET", "/metrics")):
        status, answer, _ = send(url, method, path + tail, {"actions": []} if method == "POST" else None)
        assert (status, answer["field"]) == (404, "session")
        assert path.rpartition("/")[2] not in json.dumps(answer), "names of sessions are secrets"
    assert send(url, "GET", "/v2/sessions")[0] == 404
    assert send(url, "PUT", "/v1/sessions", {})[0] == 405


def test_bodies_that_are_too_long_too_slow_or_of_another_type_are_refused(url: str) -> None:
    path = opened(url)
    status, answer, headers = send(url, "POST", f"{path}/reset", b"", {"Content-Length": str(BODY_BYTES + 1)})
    assert (status, headers["connection"]) == (413, "close"), answer
    assert send(url, "POST", f"{path}/reset", b" " * BODY_BYTES + b"{}")[0] == 413
    status, answer, _ = send(url, "POST", f"{path}/reset", b"seed=1", {"Content-Type": "text/plain"})
    assert (status, answer["field"], answer["accepted"]) == (415, "Content-Type", f"{JSON} or {BINARY}")
    host, _, port = url.partition("://")[2].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        slow.sendall(
            f"POST {path}/reset HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\n".encode()
            + b"Content-Length: 9\r\n\r\n"
        )
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert send(url, "POST", f"{path}/reset", b"[" * 20_000)[0] in (400, 422)
    assert send(url, "POST", f"{path}/reset", b"")[0] == 200, "an empty body is an empty request"
    send(url, "DELETE", path)


def test_a_session_carries_out_one_request_at_a_time(env: str) -> None:
    sessions = Sessions(env, (), SessionLimits())
    name, _ = sessions.open(CreateRequest())
    with sessions.used(name):
        with pytest.raises(RefusedError, match="carries out another request") as refused, sessions.used(name):
            pass
        assert refused.value.status == 409
    with sessions.used(name):
        pass


def age(sessions: Sessions, seconds: float) -> None:
    for held in sessions._held.values():
        held.used_at -= seconds


def test_sessions_are_limited_abandoned_ones_close_and_free_their_memory(
    env: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offload_rllib.serving.environments.app.LONGEST_PAUSE_S", 0.05)
    with served(env, sessions=2, timeout_s=3600) as (url, sessions):
        kept = opened(url)
        opened(url, interface="vector", num_envs=50)
        batches = [weakref.ref(held.session.batch) for held in sessions._held.values()]
        status, answer, _ = send(url, "POST", "/v1/sessions", {})
        assert (status, answer["field"], answer["accepted"]) == (503, "sessions", "at most 2")
        age(sessions, 3000)
        assert send(url, "GET", kept)[0] == 200  # a request keeps a session open
        age(sessions, 3000)
        until = time.monotonic() + 30
        while len(sessions) == 2 and time.monotonic() < until:
            time.sleep(0.1)
        assert len(sessions) == 1
        assert send(url, "GET", kept)[0] == 200
        gc.collect()
        assert [batch() is not None for batch in batches] == [True, False]
        send(url, "DELETE", kept)
        gc.collect()
        assert [batch() for batch in batches] == [None, None]


def test_memory_of_all_sessions_is_bounded(env: str) -> None:
    one = offload_rllib.vector_env(env, 1).bytes_per_environment
    sessions = Sessions(env, (), SessionLimits(memory_bytes=10 * one))
    batch = CreateRequest(interface="vector", num_envs=8)
    sessions.open(batch)
    with pytest.raises(RefusedError, match=r"8 environments need about .* MiB") as refused:
        sessions.open(batch)
    assert refused.value.status == 503
    assert refused.value.details["accepted"] == "at most 2"
    sessions.open(CreateRequest())


FUNCTIONS = """
from offload_rllib.scenario.network import Network, Node

def pair(seed, path=""):
    nodes = [Node(n, "node", (0.0, 0.0), cores=1, core_speed=1e6, queue_capacity=9, client=True) for n in "ab"]
    return Network(tuple(nodes), links=((0, 1),), rates_bps=((1e6, 1e6),), latencies_s=((0.1, 0.1),))

def reward(view):
    raise SystemError("was run")
"""


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("reward.name=own_code:reward", r"the function 'own_code:reward' is not accepted from a client"),
        ("observe=os:getcwd", r"the function 'os:getcwd' is not accepted"),
        ("agents={nodes: [a], others: 'os:system'}", r"the function 'os:system' is not accepted"),
        ("topology={kind: python, function: 'os:system'}", r"the function 'os:system' is not accepted"),
        ("topology={kind: graphml, path: /etc/passwd}", r"the file '/etc/passwd' is not accepted"),
        ("topology={kind: graphml, path: /no/such/file}", r"the file '/no/such/file' is not accepted"),
        ("topology={kind: graphml, path: graphml_7.graphml}", r"the file 'graphml_7.graphml' is not accepted"),
    ],
)
def test_overrides_of_clients_reach_no_files_and_no_code(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, reason: str
) -> None:
    (tmp_path / "own_code.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    status, answer, _ = send(url, "POST", "/v1/sessions", {"overrides": [override]})
    assert (status, answer["field"]) == (422, "overrides")
    assert re.search(reason, answer["error"]), answer["error"]
    assert "own_code" not in sys.modules


def test_functions_and_files_of_the_served_environment_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served_code.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    environment = small_environment(decisions=ARRIVAL)
    environment["topology"] = {"kind": "python", "function": "served_code:pair"}
    environment["links"] = {"kind": "topology"}
    sessions = Sessions(written(tmp_path, environment), (), SessionLimits())
    sessions.open(CreateRequest(overrides=("horizon_s=20",)))
    with pytest.raises(RefusedError, match="arguments of a function are not accepted from a client"):
        sessions.open(CreateRequest(overrides=("topology.arguments.path=/etc/passwd",)))
    recorded = Sessions("replay_4", (), SessionLimits())
    recorded.open(CreateRequest(overrides=("horizon_s=100",)))
    # Where the service runs lies a file of the same name.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "replay_4.csv").write_text("time,origin\n")
    with pytest.raises(RefusedError, match=r"the file '/.*replay_4.csv' is not accepted from a client"):
        recorded.open(CreateRequest(overrides=("workload.arrivals.path=replay_4.csv",)))


def test_a_token_is_needed_where_one_is_set(env: str) -> None:
    with served(env, token="right") as (url, _):  # noqa: S106 - of a test
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}):
            status, answer, answered = send(url, "POST", "/v1/sessions", {}, headers)
            assert (status, answered["www-authenticate"]) == (401, "Bearer")
            assert "right" not in json.dumps(answer).replace("Authorization", "")
        assert send(url, "POST", "/v1/sessions", {}, {"Authorization": "Bearer right"})[0] == 201
        for path in ("/", "/health", "/openapi.json"):
            assert send(url, "GET", path)[0] == 200
        with pytest.raises(ServiceError, match="401: the token is missing or wrong"):
            offload_rllib.remote_env(url)
        remote = offload_rllib.remote_env(url, token="right")  # noqa: S106 - of a test
        remote.reset(seed=0)
        remote.close()
        assert send(url, "GET", "/openapi.json")[1]["security"] == [{"token": []}]


def test_pages_of_other_sites_reach_no_service_on_this_machine(url: str) -> None:
    # A browser names the site that a page believes to talk to, and cannot send JSON there unasked.
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil.example"):
        assert send(url, "POST", "/v1/sessions", {}, {"Host": host})[0] == 403
    for host in ("localhost:80", "127.0.0.1", "127.0.0.2:1", "[::1]:8500", "[::1]"):
        assert send(url, "GET", "/health", None, {"Host": host})[0] == 200


def test_names_of_sessions_cannot_be_guessed(url: str) -> None:
    names = {opened(url).rpartition("/")[2] for _ in range(20)}
    assert len(names) == 20
    assert all(re.fullmatch(r"[\w-]{32}", name) for name in names)
    for name in names:
        send(url, "DELETE", f"/v1/sessions/{name}")


def test_the_description_is_openapi_and_answers_are_as_it_says(url: str, env: str) -> None:
    document = send(url, "GET", "/openapi.json")[1]
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1")
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    tried = set()

    def check(path: str, method: str, body: Any = None, query: str = "", template: str = "") -> Any:
        status, answer, _ = send(url, method.upper(), path + query, body)
        operation = document["paths"][template or path][method]
        schema = operation["responses"][str(status)]["content"][JSON]["schema"]
        Draft202012Validator(schema | {"components": document["components"]}).validate(answer)
        if body is not None and status < 400:
            wanted = operation["requestBody"]["content"][JSON]["schema"]
            Draft202012Validator(wanted | {"components": document["components"]}).validate(body)
        tried.add(operation["operationId"])
        return status, answer

    one = "/v1/sessions/{session}"
    for body, actions in (({}, [0] * 4), ({"interface": "vector", "num_envs": 2}, [0, 0])):
        _, answer = check("/v1/sessions", "post", body)
        path = f"/v1/sessions/{answer['session']}"
        check(path, "get", template=one)
        check(f"{path}/step", "post", {"actions": actions}, template=f"{one}/step")
        check(f"{path}/reset", "post", {"seed": 3}, template=f"{one}/reset")
        while not (step := check(f"{path}/step", "post", {"actions": actions}, template=f"{one}/step")[1])["truncated"]:
            pass
        ended = step["truncated"]
        while isinstance(ended, list) and not all(ended):
            ended = check(f"{path}/step", "post", {"actions": actions}, template=f"{one}/step")[1]["truncated"]
        status, answer = check(f"{path}/metrics", "get", query="?environments=0", template=f"{one}/metrics")
        assert status == 200, answer
        assert check(f"{path}/closing", "get", template=f"{one}/closing")[0] == 200
        assert check(f"{path}/destinations", "get", template=f"{one}/destinations")[0] == 200
        assert check(path, "delete", template=one)[0] == 200
        assert check(path, "get", template=one)[0] == 404
    assert check("/v1/environment", "get")[1]["environment"] == Path(env).stem
    assert check("/health", "get")[0] == 200
    assert tried == {operation["operationId"] for _, _, operation in operations}
    status, page, headers = send(url, "GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert all(path.encode() in page for path, _, _ in operations)
    assert b"<script" not in page


def test_the_binary_form_is_as_documented_byte_by_byte(url: str) -> None:
    path = opened(url)
    headers = {"Accept": BINARY, "Content-Type": BINARY}
    send(url, "POST", f"{path}/reset", binary({}, {"seed": 4}), headers)
    # By hand, as the page describes it, and by the library.
    actions = np.array([0, 1, 2, 0], "<i4").tobytes()
    header = json.dumps(
        {
            "__metadata__": {"values": '{"call": 2}'},
            "actions": {"dtype": "I32", "shape": [4], "data_offsets": [0, 16]},
        }
    ).encode()
    status, answer, answered = send(
        url, "POST", f"{path}/step", struct.pack("<Q", len(header)) + header + actions, headers
    )
    assert (status, answered["content-type"]) == (200, BINARY)
    (length,) = struct.unpack("<Q", answer[:8])
    said = json.loads(answer[8 : 8 + length])
    values = json.loads(said["__metadata__"]["values"])
    assert values.pop("deciding") in ("a", "b", "c", "d")
    assert values == {"call": 2, "truncated": False}
    arrays = load(answer)
    for name, (dtype, size) in {"observations": ("F32", 4), "action_masks": ("I8", 1), "rewards": ("F32", 4)}.items():
        assert said[name]["dtype"] == dtype
        first, last = said[name]["data_offsets"]
        assert (8 + length + first) % size == 0, "aligned, so that JavaScript can view it"
        raw = answer[8 + length + first : 8 + length + last]
        assert raw == arrays[name].tobytes()
    status, text, _ = send(url, "POST", f"{path}/step", {"actions": [0, 1, 2, 0], "call": 3})
    assert (status, text["call"]) == (200, 3), "the forms mix"
    send(url, "DELETE", path)


def test_two_clients_at_once_play_as_they_would_alone(url: str, env: str) -> None:
    def returns(seed: int, make: Any) -> list[float]:
        one = make()
        one.reset(seed=seed)
        earned = []
        while one.agents:
            earned.append(sum(one.step({})[1].values()))
        one.close()
        return earned

    with ThreadPoolExecutor(4) as pool:
        remote = list(pool.map(lambda seed: returns(seed, lambda: offload_rllib.remote_env(url)), range(4)))
    assert remote == [returns(seed, lambda: offload_rllib.parallel_env(env)) for seed in range(4)]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
KEYS = st.sampled_from(["actions", "call", "seed", "keys", "environments", "worker", "interface", "num_envs", "x"])
BODIES = st.dictionaries(KEYS, JSON_VALUES, max_size=4) | JSON_VALUES
GOOD = binary({"actions": np.zeros(4, np.int32)}, {"call": 1})


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return a good request in the binary form with some of its bytes changed, removed or added."""
    body = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(body) - 1))
        body[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
        if not body:
            break
    return bytes(body)


@pytest.mark.slow
def test_no_message_brings_the_service_down(url: str) -> None:
    path = opened(url)
    send(url, "POST", f"{path}/reset", {"seed": 0})
    batch = opened(url, interface="vector", num_envs=2)
    allowed = {200, 201, 400, 409, 413, 415, 422, 503}
    targets = ["/v1/sessions", *(f"{one}/{verb}" for one in (path, batch) for verb in ("reset", "step"))]

    @settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(targets), BODIES)
    def json_bodies(target: str, body: Any) -> None:
        status, answer, _ = send(url, "POST", target, json.dumps(body).encode())
        assert status in allowed, answer
        if status == 201:
            send(url, "DELETE", f"/v1/sessions/{answer['session']}")

    @settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(targets), damaged() | st.binary(max_size=200), st.sampled_from([JSON, BINARY, "text/html"]))
    def bytes_of_any_kind(target: str, body: bytes, kind: str) -> None:
        status, answer, _ = send(url, "POST", target, body, {"Content-Type": kind})
        assert status in allowed, answer
        if status == 201:
            send(url, "DELETE", f"/v1/sessions/{answer['session']}")

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=300))
    def bytes_that_are_no_http(raw: bytes) -> None:
        host, _, port = url.partition("://")[2].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(raw + b"\r\n\r\n")

    json_bodies()
    bytes_of_any_kind()
    bytes_that_are_no_http()
    assert send(url, "POST", f"{path}/reset", {"seed": 0})[0] == 200
    assert send(url, "POST", f"{batch}/reset", {"seed": 0})[0] == 200


@pytest.mark.slow
def test_a_thousand_abandoned_sessions_leave_no_memory_behind(env: str) -> None:
    process = psutil.Process()
    with served(env, sessions=1000, timeout_s=600) as (url, sessions):

        def abandon_all() -> int:
            for _ in range(1000):
                path = opened(url, interface="vector", num_envs=4)
                send(url, "POST", f"{path}/reset", {"seed": 0})
            used = process.memory_info().rss
            for held in sessions._held.values():
                held.used_at -= 1000
            assert sessions.close_abandoned() == 1000
            gc.collect()
            return used

        first = abandon_all()
        for _ in range(2):
            assert abandon_all() < first * 1.1, "the next thousand takes the memory of the first"
