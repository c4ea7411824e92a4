"""Kill at random while a policy is trained on a cluster of network namespaces, and say what was lost.

    python scripts/cluster/chaos.py --minutes 10 --kills 20

Runners, nodes and the driver are killed with SIGKILL, nodes are cut off and healed. Afterwards every iteration must be
in the logs once, the counter of environment steps must be the sum of what was sampled, and all checkpoints be whole.
Needs root, Linux and `ip`. Exit code 1 if something was lost beyond the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from namespaces import NamespaceCluster, why_not

from offload_rllib.policies.manifest import read_manifest

DEEDS = ("runner", "runner", "node", "cut", "driver")
HEALS_AFTER_S = (5.0, 40.0)
POLICY = """\
algorithm: {name: PPO, batch_env_steps: 1920, minibatch_steps: 256, epochs: 3, lr: 1.0e-3}
network: {hidden: [16, 16]}
training: {env_steps: 2000000000, runners: 3, envs_per_runner: 8, sample_timeout_s: 8, keep_checkpoints: 3}
"""


class Chaos:
    """A run, and what is done to it."""

    def __init__(self, cluster: NamespaceCluster, seed: int) -> None:
        """Prepare a run in a temporary folder."""
        self._cluster = cluster
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self.folder = Path(mkdtemp(prefix="chaos"))
        self.run = self.folder / "runs" / "chaos"
        (self.folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
        self._healing: list[tuple[float, int]] = []
        self.done: Counter[str] = Counter()
        self.redone_env_steps: list[int] = []

    def start(self) -> None:
        """Start the driver, or start it again."""
        begun = (self.run / "status.json").is_file()
        arguments = ["--resume", str(self.run)] if begun else ["ring_12", "policy.yaml", "--name", "chaos"]
        if not begun:
            arguments += ["--runners", "3"]
        command = [sys.executable, "-m", "offload_rllib", "train", *arguments, "--address", self._cluster.address]
        self.driver = self._cluster.run(command, self.folder)

    def env_steps(self) -> int:
        """Return how far the run says it is."""
        try:
            return int(json.loads((self.run / "status.json").read_text(encoding="utf-8"))["env_steps"])
        except (OSError, ValueError, KeyError):
            return 0

    def harm(self) -> str:
        """Do one random deed; return what."""
        deed = self._random.choice(DEEDS)
        node = self._random.choice(list(self._cluster.workers))
        if deed == "runner":
            pids = [pid for pid in self._cluster.pids(node) if _is_runner(pid)]
            if not pids:
                deed = "node"
            else:
                os.kill(self._random.choice(pids), signal.SIGKILL)
        if deed == "node":
            self._cluster.kill(node)
        elif deed == "cut":
            self._cluster.cut_off(node)
            self._healing.append((time.monotonic() + self._random.uniform(*HEALS_AFTER_S), node))
        elif deed == "driver":
            before = self.env_steps()
            os.killpg(self.driver.pid, signal.SIGKILL)
            self.driver.wait()
            saved = [progress for path in checkpoints_of(self.run) if (progress := read_manifest(path))]
            self.redone_env_steps.append(before - int(saved[-1]["timesteps_total"]) if saved else before)
            self.start()
        self.done[deed] += 1
        return f"{deed} {'' if deed == 'driver' else node}"

    def look_after(self) -> None:
        """Do what an init system does: heal what was cut off, and start nodes that have ended."""
        now = time.monotonic()
        for at, node in list(self._healing):
            if at <= now:
                self._cluster.heal(node)
                self._healing.remove((at, node))
        self._cluster.keep_up()
        if self.driver.poll() is not None:
            print(f"the driver ended by itself with code {self.driver.returncode}; its last words:")
            print((self.folder / "output").read_text(encoding="utf-8", errors="replace")[-1500:])
            self.done["driver ended by itself"] += 1
            self.start()

    def stop(self) -> int:
        """End the run with SIGTERM; return its exit code."""
        os.killpg(self.driver.pid, signal.SIGTERM)
        return self.driver.wait(180)


def checkpoints_of(run: Path) -> list[Path]:
    """Return the checkpoints that are there, whole or not."""
    return sorted((run / "tune" / "trial").glob("checkpoint_*"))


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Return the results in a run's log."""
    with (run / "tune" / "trial" / "result.json").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def audit(run: Path) -> list[str]:
    """Return what is wrong with a run's files: iterations missing or twice, wrong counters, broken checkpoints."""
    wrong = []
    steps = 0
    for number, row in enumerate(rows_of(run), 1):
        steps += int(row["env_runners"]["num_env_steps_sampled"])
        counted = row["env_runners"]["num_env_steps_sampled_lifetime"]
        if row["training_iteration"] != number:
            wrong.append(f"row {number} is of iteration {row['training_iteration']}")
            break
        if counted != steps:
            wrong.append(f"iteration {number}: the counter says {counted}, the samples {steps}")
            break
    found = checkpoints_of(run)
    if not found:
        wrong.append("no checkpoint")
    return wrong + [f"{path.name} is not whole" for path in found if read_manifest(path) is None]


def _is_runner(pid: int) -> bool:
    try:
        return b"EnvRunner" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def main() -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if reason := why_not():
        print(f"not possible here: {reason}")
        return 2
    with NamespaceCluster(workers=3) as cluster:
        chaos = Chaos(cluster, options.seed)
        chaos.start()
        try:
            while not chaos.env_steps():
                chaos.look_after()
                time.sleep(1)
            began, first = time.monotonic(), chaos.env_steps()
            draws = random.Random(options.seed)  # noqa: S311 - not for secrets
            moments = sorted(draws.uniform(0, options.minutes * 60) for _ in range(options.kills))
            while (passed := time.monotonic() - began) < options.minutes * 60:
                chaos.look_after()
                if moments and passed >= moments[0]:
                    moments.pop(0)
                    print(f"{passed:5.0f} s, {chaos.env_steps():>9,} env steps: {chaos.harm()}", flush=True)
                time.sleep(1)
            last = chaos.env_steps()
            code = chaos.stop()
        finally:
            if chaos.driver.poll() is None:
                os.killpg(chaos.driver.pid, signal.SIGKILL)
        print(f"deeds: {dict(chaos.done)}")
        print(f"env steps: {first:,} to {last:,}, {(last - first) / options.minutes / 60:,.0f} a second")
        print(f"done again after the driver was killed, env steps: {chaos.redone_env_steps}")
        print(f"exit code after SIGTERM: {code} (130: interrupted, everything saved)")
        wrong = audit(chaos.run)
        print("\n".join(wrong) if wrong else "every iteration once, counters exact, all checkpoints whole")
        print(f"the run: {chaos.run}")
        return 1 if wrong or code != 130 else 0


if __name__ == "__main__":
    sys.exit(main())
