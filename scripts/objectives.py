"""One policy for all trade-offs against policies trained apart, at equal budgets: trainings, fronts, hypervolumes.

Usage: python -m scripts.objectives [--seeds 3] [--folder objectives] [--env objectives_6] [--policy ppo_objectives]

For each training seed, one policy is trained with drawn weights, and one at each of the weights of
`evaluation.fronts.corners_and_middles` by itself. Each has the budget of the policy's file. Ctrl-C saves what is done;
the same command continues. Fronts are written to `FOLDER/front_SEED`, the table of hypervolumes is printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from offload_rllib.cluster.connection import ClusterError, connect
from offload_rllib.commands.terminal import say_error
from offload_rllib.config import ConfigError, EnvironmentConfig, load_environment, load_policy_config
from offload_rllib.evaluation.fronts import corners_and_middles, play_front
from offload_rllib.reporting.front_page import hypervolumes, write_front
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.objectives import objectives_of
from offload_rllib.training.train import TrainingError, quieten, train
from scripts.results.study import in_one_process

RULES = ("shortest_finish", "least_cost", "local")
# Of the lattice on which the policy with drawn weights is asked: 35 weights of four objectives, 15 of three.
STEPS = 4
TOGETHER, APART = "one policy", "trained apart"


def environments(env: str) -> dict[str, EnvironmentConfig]:
    """Return what is trained on, by name: drawn weights, then each of the fixed ones."""
    drawn = load_environment(env, ["reward.weights=drawn"])
    names = objectives_of(build_scenario(drawn).arrays)
    found = {"drawn": drawn}
    for share in corners_and_middles(len(names)):
        given = ", ".join(f"{name}: {weight:.6g}" for name, weight in zip(names, share, strict=True) if weight > 0)
        label = "-".join(name for name, weight in zip(names, share, strict=True) if weight > 0)
        found[label] = load_environment(env, [f"reward.weights={{{given}}}"])
    return found


def train_all(seed: int, folder: Path, env: str, policy: str, console: Console) -> dict[str, Path] | None:
    """Train what is missing of a seed; return the run folders by name, None after an interruption."""
    paths = {}
    for name, environment in environments(env).items():
        path = folder / "runs" / str(seed) / name
        config = load_policy_config(policy, [*in_one_process(policy), f"training.seed={seed}"])
        if not path.is_dir():
            RunFolder.create(str(path), environment, config, "", environment_name=env)
        run = RunFolder.open(path)
        if run.state != "finished":
            console.print(f"seed {seed}: {name}", highlight=False)
            if not train(run, console, resume=bool(run.checkpoints())):
                return None
        paths[name] = path
    return paths


def main() -> int:
    """Train, play, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("objectives"))
    parser.add_argument("--env", default="objectives_6")
    parser.add_argument("--policy", default="ppo_objectives")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--sampled", action="store_true")
    asked = parser.parse_args()
    console = Console()
    quieten()
    with connect():
        for seed in range(asked.seeds):
            runs = train_all(seed, asked.folder, asked.env, asked.policy, console)
            if runs is None:
                console.print("interrupted; the same command continues")
                return 130
            together = runs.pop("drawn")
            players = [f"{TOGETHER}={together}", f"{APART}={','.join(map(str, runs.values()))}", *RULES]
            for label, steps in (("", 0), ("_lattice", STEPS)):
                front = play_front(
                    load_environment(asked.env),
                    players,
                    steps=steps,
                    episodes=asked.episodes,
                    sampled=asked.sampled,
                )
                folder = asked.folder / f"front_{seed}{label}{'_sampled' if asked.sampled else ''}"
                folder.mkdir(parents=True, exist_ok=True)
                write_front(front, folder, f"{asked.env}, training seed {seed}")
                ratio = front.hypervolume(TOGETHER) / front.hypervolume(APART)
                console.print(hypervolumes(front).to_string(index=False))
                console.print(f"seed {seed}{label}: {TOGETHER} / {APART}: {ratio:.3f}", highlight=False)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ConfigError, ClusterError, TrainingError) as error:
        say_error(str(error))
        sys.exit(2)
