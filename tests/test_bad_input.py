"""What cannot be is refused with file, key, value and what is accepted, and leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers.command_line import run_here
from helpers.environments import refused, small_environment

from offload_rllib.cli import main
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.config.topology import Manual


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "workload.load.rhoo=1",
            r"ether_12.yaml: workload.load.rhoo: unknown key. Did you mean 'rho'\? Accepted: .*rho",
        ),
        ("horizon=1", r"horizon: unknown key. Did you mean 'horizon_s'\?"),
        ("links.bandwidth=1", r"bandwidth: unknown key. Did you mean 'bandwidth_hz'\?"),
        ("topology.kind=star", r"topology.*'star'.*ether_clusters"),
        ("workload.load.rho=-1", r"workload.load.rho: .*greater than 0 .*-1"),
        ("workload.load.rho=.inf", r"workload.load.rho: .*finite"),
        ("workload.load.rho=.nan", r"workload.load.rho: "),
        ("workload.load.rho=true", r"workload.load.rho: .*number"),
        ("workload.load.rho=[0.3, 0.9]", r"workload.load.rho: must be a number, or {per_episode: \[low, high\]}"),
        ("workload.load.rho='0.8'", r"workload.load.rho: .*number.*'0.8'"),
        ("workload.load.tasks_per_second_per_client=1", r"workload.load: give exactly one of"),
        ("workload.deadline_s={uniform: [200, 100]}", r"deadline_s: uniform needs low <= high"),
        ("workload.deadline_s={uniform: [1, 2], constant: 3}", r"deadline_s: give a number, or exactly one"),
        ("decisions.max_hops=0", r"decisions.max_hops: .*greater than or equal to 1 .*0"),
        ("decisions.max_hops=1.5", r"decisions.max_hops: .*integer.*1.5"),
        ("decisions.interval_s=1", r"interval_s: 1 needs when: interval.*Accepted: no interval_s, or 0"),
        ("tick_s=1", r"tick_s: 1 needs decisions.when: interval"),
        ("warmup_s=900", r"no task would count"),
        ("deadlines.grace_s=5", r"grace_s needs expiry: queued"),
        (
            "reward.name=profit",
            r"reward.name: .*'delay', 'sparse', 'paper', 'peersimgym' or package.module:function.*profit",
        ),
        ("topology.rpi3_per_cluster=[]", r"rpi3_per_cluster: .*at least 1"),
        ("topology.rpi3_per_cluster.7=1", r"'7' must be an index from 0 to 0"),
        ("horizon_s.x=1", r"leads into a int, which has no keys"),
        ("workload.deadline_s=1e-4", r"workload.load.rho: no task could meet workload.deadline_s"),
        ("links.transmit_power_dbm=4000", r"transmit_power_dbm: .*less than or equal to 300 .*4000"),
        ("links.transmit_power_dbm=-299", r"links: the link .* would have rate 0 bit/s"),
        ("workload.deadline_s={exponential: 1e308}", r"deadline_s.exponential: its size must be between .*1e\+308"),
        ("workload.deadline_s={exponential: 1e-320}", r"deadline_s.exponential: its size must be between .*e-320"),
        ("links.bandwidth_hz=1e308", r"links.bandwidth_hz: its size must be between 1e-30 and 1e\+30"),
        ("cloud={vms: 1, instructions_per_second: 1, position_m: [-1e300, 0]}", r"position_m.0: its size must be .*"),
        ("workload={[1]: 2}", r"the value is not valid YAML: key \[1\] is not text"),
        ("topology.rpi3_per_cluster.²=1", r"'²' must be an index from 0 to 0"),
        ("format=2", r"format: .*1"),
        ("nonsense", r"override 'nonsense': must be KEY=VALUE"),
        ("a=[", r"override 'a=\[': the value is not valid YAML"),
    ],
)
def test_impossible_values_of_an_environment(override: str, message: str) -> None:
    refused("ether_12", [override], message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("decisions.interval_s=0.3", r"horizon_s \(1000\) must be a multiple of decisions.interval_s \(0.3\)"),
        ("decisions.interval_s=1e-8", r"1e\+11 decisions per episode; at most 10,000,000"),
        ("tick_s=1e-9", r"horizon_s / tick_s is 1e\+12 ticks per episode; at most 10,000,000"),
        ("tick_s=0.3", r"decisions.interval_s \(1\) must be a multiple of tick_s \(0.3\)"),
    ],
)
def test_impossible_values_of_a_clock(override: str, message: str) -> None:
    refused("paper_ether_12", [override], message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("links", [["a", "b"], ["c", "d"]], r"in 2 pieces; cut off from the largest: "),
        ("links", [["a", "x"]], r"topology.links.0: no node is named 'x'. Accepted: a, b, c, d"),
        ("links", [["a", "b"], ["b", "a"], ["b", "c"], ["c", "d"]], r"link 'a' - 'b' is given more than once"),
        ("links", [["a", "a"]], r"node 'a' is linked to itself"),
    ],
)
def test_impossible_networks(key: str, value: object, message: str) -> None:
    environment = small_environment()
    environment["topology"][key] = value
    refused(environment, [], message)


def test_impossible_nodes() -> None:
    environment = small_environment()
    del environment["topology"]["nodes"][1]["instructions_per_second"]
    refused(environment, [], r"topology.nodes.1.instructions_per_second: missing")
    refused(small_environment(), ["topology.nodes.1.instructions_per_second=-1"], r"greater than or equal to 0")
    refused(
        small_environment(),
        ["topology.nodes.1.name=a", "topology.links=[[a, c], [c, d]]"],
        r"node name 'a' is used more than once",
    )
    refused(
        small_environment(), ["topology.nodes.0.client=false", "topology.nodes.2.client=false"], r"no node has a client"
    )
    alone = small_environment()
    alone["topology"] |= {"nodes": alone["topology"]["nodes"][:1], "links": []}
    refused(alone, [], r"no node has a choice")
    refused(
        small_environment(),
        ["workload.jobs.types.0.instructions=0", "workload.jobs.types.1.instructions=0"],
        r"no instructions",
    )


def test_files_that_are_missing_or_no_mappings(tmp_path: Path) -> None:
    refused(tmp_path / "missing.yaml", [], r"missing.yaml: no such file")
    refused("ether_11", [], r"'ether_11' is not a preset of envs/.*Did you mean 'ether_\d\d'\? Accepted: .*ether_12, ")
    for content, message in (
        ("- 1\n- 2\n", r"must be a mapping"),
        ("a: [1\n", r"not valid YAML"),
        ("a: 1\na: 2\n", r".*key 'a' given twice"),
        ("[1]: 2\n", r".*key \[1\] is not text"),
        ("a: !!python/object/apply:os.system ['true']\n", r"not valid YAML"),
    ):
        path = tmp_path / "file.yaml"
        path.write_text(content)
        refused(path, [], rf"file.yaml: {message}")


def test_impossible_policies() -> None:
    for override, message in (
        ("algorithm.lr=0", r"ppo.yaml: algorithm.lr: .*greater than 0"),
        ("algorithm.gama=1", r"algorithm.gama: unknown key. Did you mean 'gamma'\?"),
        (
            "algorithm.minibatch_steps=5121",
            r"minibatch_steps \(5121\) must not exceed batch_env_steps \(5120\)",
        ),
        ("training.seed=4294967296", r"training.seed: .*less than 2147483648"),
        ("algorithm.name=DQN", r"algorithm: .*'DQN'.*'PPO', 'A2C', 'APPO', 'DDQN'"),
        ("algorithm.batch_env_steps=1001", r"must be a multiple of runners x envs_per_runner \(8\)"),
        ("network.activation=gelu", r"network.activation: .*'tanh' or 'relu'"),
        ("sharing=per_planet", r"sharing.kind: .*'shared'"),
        ("algorithm.critic=both", r"algorithm.critic: .*'local' or 'central'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_policy_config("ppo", [override])


def cli(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "offload_rllib", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_usage_errors_exit_with_2_one_message_and_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: the libraries are loaded once, and an error that is not caught fails the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        (["evaluate", "nowhere", "local"], "'nowhere' is not a preset"),
        (["evaluate", "ether_12", "lokal"], "Did you mean 'local'?"),
        (["evaluate", "ether_12", "notes"], "neither a run folder nor a checkpoint"),
        (["evaluate", "ether_12", "./none"], "no such folder"),
        (["evaluate", "ether_12", "local", "--episodes", "1"], "--episodes"),
        (["evaluate", "ether_12", "local", "--out", "notes"], "exists and is not overwritten"),
        (["train", "ether_12"], "train needs ENV and POLICY"),
        (["train", "ether_12", "ppo", "--name", ""], "--name '': names no folder of its own"),
        (["train", "ether_12", "ppo", "--name", "./."], "names no folder of its own"),
        (["train", "ether_12", "ppo", "--name", "taken"], "runs/taken: this run folder exists"),
        (["train", "ether_12", "ppo", "--set", "workload.load.rho=-1"], "workload.load.rho"),
        (["train", "ether_12", "ppo", "--set-policy", "algorithm.lr=x"], "algorithm.lr"),
        (["train", "--resume", "notes"], "not a run folder: run.json is missing"),
        (["train", "ether_12", "--resume", "notes"], "--resume takes environment and policy from the run"),
        (["show", "ether_12", "--out", "no/such/picture.png"], "no such folder"),
    ):
        monkeypatch.setattr(sys, "argv", ["offload-rllib", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == 2, (arguments, printed)
        assert message in printed.err, (arguments, printed.err)
        assert "Traceback" not in printed.err
        assert sorted(tmp_path.rglob("*")) == before, arguments


def test_a_usage_error_found_with_ray_exits_with_2_one_message_and_no_trace(tmp_path: Path) -> None:
    too_many = ["--set-policy", "training.runners=1000", "--set-policy", "algorithm.batch_env_steps=32000"]
    result = cli("train", "ether_12", "ppo", *too_many, cwd=tmp_path)
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert "1000 processes and the trainer do not fit on" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "evaluations").write_text("a file where the folder would go")
    code, printed = run_here(tmp_path, "evaluate", "ether_12", "local", "--episodes", "2")
    assert code == 1, printed
    assert "evaluations: " in printed.splitlines()[-1], printed


def test_dumped_configurations_load_to_the_same() -> None:
    for name in ("ether_12", "ether_31"):
        config = load_environment(name, ["topology.memory_per_task_bytes=null"])
        again = load_environment(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))))
        assert again == config
    policy = load_policy_config("ppo")
    assert load_policy_config(policy.model_dump(mode="json", by_alias=True)) == policy


def test_a_list_is_not_called_too_short_for_its_only_wrong_member() -> None:
    environment = small_environment()
    environment["workload"]["jobs"]["types"] = [{"instructions": -1}]
    with pytest.raises(ConfigError) as error:
        load_environment(environment)
    assert len(str(error.value).splitlines()) == 1
    environment["workload"]["jobs"]["types"] = []
    refused(environment, [], r"workload.jobs.types: .*at least 1 item")


def test_two_nodes_of_one_name_are_named() -> None:
    environment = small_environment()
    environment["topology"]["nodes"][1]["name"] = "a"
    refused(environment, [], r"topology.nodes: node name 'a' is used more than once")


@pytest.mark.parametrize(("text", "number"), [("1e5", 100_000), ("2.5E3", 2500), ("1e0", 1), ("1e+2", 100)])
def test_whole_numbers_may_have_an_exponent(text: str, number: int) -> None:
    assert load_policy_config("ppo", [f"training.env_steps={text}"]).training.env_steps == number
    assert load_environment("ether_12", [f"reward.scale={text}"]).reward.scale == number


@pytest.mark.parametrize("text", ["1.5e0", "1e-1", "1e300", "1e5x"])
def test_what_is_not_whole_is_refused_where_that_is_needed(text: str) -> None:
    with pytest.raises(ConfigError, match=r"training.env_steps"):
        load_policy_config("ppo", [f"training.env_steps={text}"])


def test_names_may_have_hyphens() -> None:
    environment = small_environment()
    environment["topology"]["nodes"][0]["name"] = "edge-1"
    environment["topology"]["links"] = [["edge-1", "b"], ["b", "c"], ["c", "d"], ["d", "edge-1"]]
    topology = load_environment(environment).topology
    assert isinstance(topology, Manual)
    assert topology.nodes[0].name == "edge-1"
    mapping = {"sharing": {"mapping": {"edge-nodes": ["edge-1"], "others": ["node"]}}}
    assert load_policy_config({"algorithm": {"name": "PPO"}} | mapping).sharing.mapping
    for wrong in ("-a", "a b", "a/b", ""):
        environment["topology"]["nodes"][0]["name"] = wrong
        with pytest.raises(ConfigError, match=r"topology.nodes.0.name"):
            load_environment(environment)


NINEFOLD = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghij"))
CHAIN = "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", r"the alias stands in the part that it names .*line 1, column 8"),
        ("a: &a {b: {c: *a}}", r"the alias stands in the part that it names .*line 1, column 15"),
        (f"a: &a [{', '.join('1' * 9)}]\n{NINEFOLD}", r"aliases stand for more than 100,000 values .*line 6"),
        (f"a0: &a0 [1]\n{CHAIN}", r"parts lie in parts more than 64 deep .*line 64, column 12"),
        (f"a: {'[' * 3000}{']' * 3000}", r"parts lie in parts more than 64 deep .*line 1, column 68"),
        (f"a: {'{a: ' * 3000}{'}' * 3000}", r"parts lie in parts more than 64 deep .*line 1"),
        ("\n".join(" " * i + "a:" for i in range(2000)), r"parts lie in parts more than 64 deep .*line 65"),
        (
            "a: 1\nhorizon_s: 2026-02-30",
            r"2026-02-30 is not a value of the kind timestamp: day is .*line 2, column 12",
        ),
        ("horizon_s: !!timestamp abc", r"abc is not a value of the kind timestamp.*line 1, column 12"),
        ("horizon_s: !!int ''", r"is not a value of the kind int.*line 1, column 12"),
        ("horizon_s: !!float abc", r"abc is not a value of the kind float.*line 1, column 12"),
        (f"horizon_s: {'9' * 5000}", r"9\.\.\. is not a value of the kind int: .*line 1, column 12"),
        (f"horizon_s: {'9' * 4000}", r"horizon_s: Input should be .*9\.\.\.\)"),
        ("a: \x00", r"special characters are not allowed"),
    ],
    ids=lambda text: text[:30],
)
def test_yaml_that_cannot_be_is_named_with_file_and_place_in_a_moment(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(ConfigError) as error:
        load_environment(path)
    assert time.monotonic() - began < 30
    assert re.search(rf"^{path}: .*{message}", str(error.value), re.DOTALL)
    assert len(str(error.value)) < 1500
    if "\n" not in text:
        with pytest.raises(ConfigError):
            load_environment("ether_12", [text.replace(": ", "=", 1)])


def test_aliases_that_repeat_a_little_are_read(tmp_path: Path) -> None:
    text = yaml.safe_dump(small_environment())
    (tmp_path / "own.yaml").write_text(text + "link_overrides:\n- &one {between: [a, b], rate_bps: 1e6}\n- *one\n")
    assert len(load_environment(tmp_path / "own.yaml").link_overrides) == 2


def test_a_key_of_an_override_has_an_end() -> None:
    with pytest.raises(ConfigError, match=r"must be KEY=VALUE"):
        load_environment("ether_12", ["a." * 5000 + "b=1"])
