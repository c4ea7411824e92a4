"""Launchers: each file is what its tool takes, and what it runs is a command that there is."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from helpers.command_line import parse

ROOT = Path(__file__).parents[1]
LAUNCHERS = ROOT / "scripts" / "cluster"
RAY = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)["ray"]


def commands_in(text: str) -> list[dict[str, Any]]:
    """Parse every `offload-rllib train ...` in a text."""
    found = []
    for part in text.replace("\\\n", " ").replace("#", " ").split("offload-rllib train ")[1:]:
        words = shlex.split(part.splitlines()[0].strip().rstrip("'"))
        found.append(parse(["train", *words]))
    return found


@pytest.mark.parametrize("name", ["aws.yaml", "on_premise.yaml"])
def test_ray_up_takes_the_cluster_files(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = (LAUNCHERS / name).read_text()
    config = yaml.safe_load(text)
    prepared = prepare_config(config)
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(prepared, schema)
    validate_config(prepared)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"  # noqa: S105 - the file, not the token
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    starts = [line for key in ("head_start_ray_commands", "worker_start_ray_commands") for line in config[key]]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)
    for command in commands_in(text):
        assert command["address"] == "auto"
        assert command["storage"]


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kuberay_manifests_have_the_form_of_their_kinds(name: str) -> None:
    manifest, claim = yaml.safe_load_all((LAUNCHERS / "kuberay" / name).read_text())
    assert manifest["apiVersion"] == "ray.io/v1"
    spec = manifest["spec"]
    if manifest["kind"] == "RayJob":
        words = shlex.split(spec["entrypoint"])
        assert words[0] == "offload-rllib"
        command = parse(words[1:])
        assert command["or_resume"], "a job that is started again goes on with its run"
        assert command["name"]
        storage = command["storage"]
        spec = spec["rayClusterSpec"]
    else:
        storage = commands_in((LAUNCHERS / "kuberay" / name).read_text())[0]["storage"]
    assert spec["rayVersion"] == RAY
    assert spec["authOptions"] == {"mode": "token"}
    head, (workers,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    images = set()
    for group in (head, workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        images.add(container["image"])
        assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys() == {"cpu", "memory"}
        (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
        assert mount["name"] == volume["name"]
        assert storage.startswith(mount["mountPath"])
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert all(value == str(value) for value in group["rayStartParams"].values()), "KubeRay takes texts only"
    assert len(images) == 1, "driver and workers are of one image"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_image_installs_the_wheel_with_what_a_node_needs() -> None:
    text = (LAUNCHERS / "kuberay" / "Dockerfile").read_text()
    assert "[alibaba,cluster]" in text, "its warm-up plays jobs of the trace"
    assert "cluster" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for source in ("constraints.txt",):
        assert source in text
        assert (ROOT / source).is_file()
    assert "USER ray" in text


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def test_the_slurm_script_runs_one_training_on_all_nodes(tmp_path: Path) -> None:
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    tools = tmp_path / "tools"
    tools.mkdir()
    fake(tools, "scontrol", 'printf "node-a\\nnode-b\\n"')
    fake(tools, "srun", 'printf "%s\\0" "$@" > "$CALLED"')
    fake(tools, "ray", 'echo secret-token; echo "$@" >> "$RAY_CALLED"')
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "CALLED": str(tmp_path / "called"),
        "RAY_CALLED": str(tmp_path / "ray_called"),
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_JOB_ID": "4711",
    }
    script = LAUNCHERS / "slurm.sbatch"
    done = subprocess.run(
        ["/bin/bash", str(script), "ether_12", "ppo", "--name", "one"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "secret-token" not in done.stdout + done.stderr
    assert (tmp_path / "ray_called").read_text().strip() == "get-auth-token --generate"
    words = (tmp_path / "called").read_text().rstrip("\0").split("\0")
    assert words[:2] == ["--ntasks=2", "--ntasks-per-node=1"]
    assert words[words.index("ray") + 1] == "symmetric-run"
    own = words[words.index("symmetric-run") + 1 :]
    assert own[own.index("--address") + 1] == "node-a:24711"
    start = curate_and_validate_ray_start_args(own[: own.index("--")])
    assert "--num-cpus=16" in start
    trained = words[words.index("offload-rllib") + 1 :]
    assert parse(trained)["storage"] == str(tmp_path / "runs")
    assert parse(trained)["or_resume"]
    directives = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --signal=B:TERM@120" in directives
    assert "#SBATCH --requeue" in directives


def test_submit_hands_a_training_to_the_cluster(tmp_path: Path) -> None:
    fake(tmp_path, "ray", 'printf "%s\\0" "$@" > "$CALLED"')
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLED": str(tmp_path / "called"),
    }
    script = str(LAUNCHERS / "submit.sh")
    call = ["/bin/bash", script, "ether_12", "ppo", "--name", "one"]
    refused = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode
    assert "RAY_API_SERVER_ADDRESS" in refused.stderr
    environment |= {"RAY_API_SERVER_ADDRESS": "http://head:8265", "OFFLOAD_STORAGE": "s3://bucket/runs"}
    environment["OFFLOAD_RUNTIME_ENV"] = str(LAUNCHERS / "runtime_env.yaml")
    subprocess.run(call, env=environment, check=True)
    words = (tmp_path / "called").read_text().rstrip("\0").split("\0")
    assert words[:2] == ["job", "submit"]
    from ray.dashboard.modules.job.cli import submit

    options = submit.make_context("submit", words[2:]).params
    assert Path(options["runtime_env"]).is_file()
    assert options["no_wait"]
    entrypoint = list(options["entrypoint"])
    assert entrypoint[:3] == ["python", "-m", "offload_rllib"]
    assert parse(entrypoint[3:])["storage"] == "s3://bucket/runs"
    assert parse(entrypoint[3:])["runners"] is None, "the policy's, unless the call says a number"
    subprocess.run([*call, "--runners", "3"], env=environment, check=True)
    words = (tmp_path / "called").read_text().rstrip("\0").split("\0")
    assert parse(words[words.index("offload_rllib") + 1 :])["runners"] == "3"


def test_the_runtime_environment_names_all_that_the_package_needs() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {requirement.split(">")[0].split("=")[0].split("[")[0] for requirement in needed}
    given = set(yaml.safe_load((LAUNCHERS / "runtime_env.yaml").read_text())["pip"]["packages"])
    # These come with ray[default, tune] or are pinned by it.
    assert names - given <= {"ray", "gymnasium", "numpy", "pyarrow", "pydantic", "pyyaml", "rich"}
