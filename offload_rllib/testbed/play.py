"""A testbed from beginning to end: several policies on the same recorded arrivals, beside the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.progress import Progress

from offload_rllib.config import ConfigError, EnvironmentConfig
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.episode_keys import held_out_keys
from offload_rllib.evaluation.evaluate import Cell, Place, Player, about_episodes
from offload_rllib.evaluation.players import Contender, make_contenders
from offload_rllib.runs.folder import refuse_existing, write_results
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.simulator.types import Array
from offload_rllib.testbed.analysis.log import LOAD
from offload_rllib.testbed.controller import Controller
from offload_rllib.testbed.fates import fates
from offload_rllib.testbed.hosts import Placement, here
from offload_rllib.testbed.launch import HostSpec, Launcher
from offload_rllib.testbed.playing import Fault, Outcome, Playing
from offload_rllib.testbed.recorded import arrivals_of, brain_of, faults_of, network_of
from offload_rllib.testbed.results import (
    mean_response_s,
    measured_table,
    record_of_play,
    record_of_run,
    simulated_table,
    write_files,
)
from offload_rllib.testbed.setup import NAMESPACES, REAL, SHAPED, Brain, Network, Options
from offload_rllib.testbed.support import check_environment, check_options

PARENT = Path("testbeds")
DEFAULT = Options()


@dataclass(frozen=True)
class _Episode:
    """What is played: one policy in one episode."""

    cell: Cell
    key: int
    brain: Brain
    arriving: Array
    faults: list[Fault]

    @property
    def about(self) -> dict[str, Any]:
        return about_episodes(self.cell)[0]


def contenders_of(names: Sequence[str], *, sampled: bool) -> list[Contender]:
    """Return the policies of a testbed: rules, and trained ones that take their best action, or draw.

    Raises:
        ConfigError: as `make_contenders`.
    """
    both = make_contenders(names)
    drawing = {each.source for each in both if not each.deterministic}
    return [each for each in both if str(each.source) not in map(str, drawing) or each.deterministic != sampled]


def play(
    config: EnvironmentConfig,
    names: Sequence[str],
    *,
    label: str = "environment",
    options: Options = DEFAULT,
    episodes: int = 1,
    seed: int = 0,
    sampled: bool = False,
    out: Path | None = None,
    parent: Path = PARENT,
    placement: Placement | None = None,
    first_port: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Play policies on a testbed and in the simulator, on the same arrivals, and return the folder of the results.

    Args:
        config: the environment.
        names: rules, or folders of runs.
        label: what the results call the environment.
        options: how fast, and how servers and links work.
        episodes: how many held-out episodes each policy plays.
        seed: of the held-out episodes.
        sampled: let trained policies draw their actions, instead of taking the best.
        out: the folder; it must not exist. None takes the next free one in `parent`.
        parent: of the folder without `out`.
        placement: which nodes are where, and what starts them there; all on this machine by default.
        first_port: the first of the ports that nodes listen on; 0 takes free ones.
        progress: where to show it.

    Raises:
        ConfigError: the environment, a policy or an option does not fit a testbed.
        TestbedError: processes do not start, or do not reach each other.
    """
    refuse_existing(out)
    check_options(options)
    if episodes < 1:
        raise ConfigError(f"--episodes {episodes}: accepted: 1 or more")
    scenario = build_scenario(config)
    check_environment(config, scenario, options)
    contenders = contenders_of(names, sampled=sampled)
    place, player = Place(label, config, {LOAD: float(f"{scenario.load.rho:.4g}")}), Player(scenario)
    env = ArrivalEnv(scenario, 1, log=True)
    network = network_of(env)
    planned = _plan(place, env, contenders, episodes, seed)
    placement = placement or here()
    if options.network == NAMESPACES and placement.file is not None:
        raise ConfigError(
            f"--network {NAMESPACES} with --hosts: they join nodes of one machine; accepted: {SHAPED}, {REAL}"
        )
    hosts = placement.hosts(network.names)
    outcomes = asyncio.run(_play_all(network, options, hosts, placement.launcher, planned, first_port, progress))
    tables: list[pa.Table] = []
    plays = []
    for episode, outcome in zip(planned, outcomes, strict=True):
        simulated = player.play(episode.cell).tasks
        response_s = mean_response_s(simulated)
        played = fates(episode.arriving, outcome)
        tables += [measured_table(scenario, played, episode.about), simulated_table(simulated)]
        plays.append(record_of_play(episode.about, outcome, played, options, network.names, response_s))
    record = record_of_run(label, fingerprint(config), options, hosts, network.names, plays)
    folder, _ = write_results(out, parent, label, lambda path: write_files(path, tables, record))
    return folder


def _plan(place: Place, env: ArrivalEnv, contenders: Sequence[Contender], episodes: int, seed: int) -> list[_Episode]:
    scenario: BuiltScenario = env.scenario
    keys = [int(key) for key in held_out_keys(seed, episodes)]
    arriving = [arrivals_of(env, key) for key in keys]
    if not any(len(rows) for rows in arriving):
        raise ConfigError("no task comes in any episode, so there is nothing to play: raise workload.load or horizon_s")
    brains = [brain_of(contender, env, seed) for contender in contenders]
    return [
        _Episode(
            Cell(place, contender, number, 1, seed, log=True), key, brain, arriving[number], faults_of(scenario, key)
        )
        for contender, brain in zip(contenders, brains, strict=True)
        for number, key in enumerate(keys)
    ]


async def _play_all(
    network: Network,
    options: Options,
    hosts: Sequence[HostSpec],
    launcher: Launcher,
    planned: Sequence[_Episode],
    first_port: int,
    progress: Progress | None,
) -> list[Outcome]:
    horizon_s = float(network.arrays.settings[0]["horizon_s"])
    outcomes = []
    starting = None if progress is None else progress.add_task("starting the nodes", total=None)
    async with Controller(network, options, hosts, launcher) as controller:
        if progress is not None and starting is not None:
            progress.remove_task(starting)
        for episode in planned:
            about = episode.about
            shown = None
            if progress is not None:
                shown = progress.add_task(f"{about['policy']}, episode {about['episode']}", total=horizon_s)

            def tell(playing: Playing, shown: Any = shown) -> None:
                if progress is not None:
                    progress.update(shown, completed=playing.now_s)

            outcomes.append(
                await controller.play(
                    episode.brain, episode.key, episode.arriving, episode.faults, first_port=first_port, tell=tell
                )
            )
            if progress is not None and shown is not None:
                progress.remove_task(shown)
    return outcomes
