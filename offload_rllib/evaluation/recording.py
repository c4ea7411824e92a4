"""Decisions of any policy as an offline data set: who saw what, what was chosen, and what followed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from offload_rllib.config import ConfigError, EnvironmentConfig, load_environment
from offload_rllib.config.files import written_at_once
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.config.names import plain_name
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.episode_keys import training_key
from offload_rllib.envs.vector import NativeEnv, batch_of
from offload_rllib.evaluation.evaluate import LARGEST_BATCH, one_torch_thread
from offload_rllib.policies.behaviour import probabilities_of
from offload_rllib.policies.policy import Policy
from offload_rllib.rollout import dataset
from offload_rllib.runs.folder import refuse_existing
from offload_rllib.runs.lookup import load_policy
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import NONE, Array
from offload_rllib.version import __version__

# Runners number their episodes by themselves; none has this number, nor has a clone's rule.
RECORDED_BY = 2**31 - 2


class Recorded(NamedTuple):
    """What was written."""

    path: Path
    episodes: int
    decisions: int


def record_decisions(
    env: str | Path | Mapping[str, Any] | EnvironmentConfig,
    policy: str | Path,
    out: str | Path,
    *,
    episodes: int = 20,
    seed: int = 0,
    sampled: bool = False,
    overrides: Iterable[str] = (),
    trust: bool = False,
    progress: Progress | None = None,
) -> Recorded:
    """Let a policy play, and write its decisions into a Parquet file; the columns are in `docs/datasets.md`.

    The episodes are neither those of trainings nor those of evaluations. The same arguments give the same rows. The
    file appears when it is complete.

    Args:
        env: a preset's name, a path to a YAML file, a mapping, or a configuration.
        policy: as `load_policy` takes it: a heuristic, a function ``package.module:function``, the folder of a run or a
            policy, or the address of a service.
        out: the file, ending in `.parquet`; must not exist.
        episodes: how many, 1 or more.
        seed: of the episodes, and of the policy's draws.
        sampled: let a trained policy draw its actions; otherwise it takes the best.
        overrides: ``a.b=value`` texts.
        trust: run Python code that a file of a run or of a policy names.
        progress: where to show it.

    Raises:
        ConfigError: invalid input, the file exists, or the policy does not fit the environment.
        ServiceError: no service answers at an address.
    """
    path = Path(out)
    _check_out(path)
    if episodes < 1:
        raise ConfigError(f"episodes must be at least 1, is {episodes}")
    config = load_environment(env, overrides, trust=trust)
    if config.decisions.when == "interval" and config.decisions.tasks_per_decision > 1:
        raise ConfigError(
            f"decisions.tasks_per_decision: {config.decisions.tasks_per_decision}; accepted here: 1, one task per row"
        )
    player, scenario = load_policy(policy, trust=trust), build_scenario(config)
    keys = np.array([training_key(seed, RECORDED_BY, 0, episode) for episode in range(episodes)], np.uint64)
    about = {
        dataset.ENVIRONMENT_KEY: fingerprint(config),
        "decides": config.decisions.when,
        "policy": plain_name(str(policy)),
        "sampled": str(sampled).lower(),
        "seed": str(seed),
        "episodes": str(episodes),
        "version": __version__,
    }
    decisions = 0
    task = progress.add_task("recording", total=episodes) if progress else None
    with written_at_once(path) as partial:
        writer: pq.ParquetWriter | None = None
        try:
            for first in range(0, episodes, LARGEST_BATCH):
                batch: NativeEnv = batch_of(scenario, min(LARGEST_BATCH, episodes - first))
                fitted = player.on(batch)
                fitted.seed(seed + first // LARGEST_BATCH)
                schema = dataset.schema_of(batch.observation_size, batch.num_actions, about)
                writer = writer or pq.ParquetWriter(partial, schema, compression="zstd")
                batch.reset(keys[first : first + batch.num_envs])
                played = _Played(batch, fitted, deterministic=not sampled)
                with one_torch_thread():
                    for ended in played.steps():
                        if progress and task is not None:
                            progress.advance(task, ended)
                table = played.table(schema, first)
                writer.write_table(table)
                decisions += len(table)
        finally:
            if writer is not None:
                writer.close()
        if not decisions:
            raise ConfigError("no task was to be decided in any episode: raise workload.load or horizon_s")
        _check_out(path)  # another process may have written it meanwhile
    return Recorded(path, episodes, decisions)


def _check_out(path: Path) -> None:
    if path.suffix.lower() != ".parquet":
        raise ConfigError(f"--out {path}: accepted ending: .parquet")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder")
    refuse_existing(path)


@dataclass
class _Played:
    """Episodes of a batch of environments, and the rows of their decisions in the order of time."""

    env: NativeEnv
    policy: Policy
    deterministic: bool
    rows: list[dict[str, Array]] = field(default_factory=list)
    closing: dict[tuple[int, int], tuple[Array, float, float]] = field(default_factory=dict)
    """By environment and agent: the last observation, and reward and time since the agent's last row."""

    def steps(self) -> Iterable[int]:
        """Play to the end of all episodes; yield after each step how many ended."""
        env = self.env
        over = env.truncated.copy()
        yield int(over.sum())  # those without a decision
        while not over.all():
            if isinstance(env, ArrivalEnv):
                self._arrival(env)
            else:
                self._interval(env)
            ended = np.flatnonzero(env.truncated & ~over)
            for e in ended.tolist():
                self._close(e)
            over = env.truncated.copy()
            yield len(ended)

    def _arrival(self, env: ArrivalEnv) -> None:
        who = np.flatnonzero(env.deciding != NONE)
        earned, waited_s = env.rewards[who], env.elapsed_s[who]
        self._note(who, env.deciding[who], env.time_s[who], env.observations[who], env.masks[who], earned, waited_s)
        actions = self.policy(env.observations, env.masks, agents=env.deciding, deterministic=self.deterministic)
        self._chose(np.asarray(actions)[who])
        env.step(np.asarray(actions))

    def _interval(self, env: Any) -> None:
        environments, agents = env.num_envs, len(env.agents)
        who, of = np.repeat(np.arange(environments), agents), np.tile(np.arange(agents), environments)
        now_s = env.state.episode["now_s"][who]
        seen, masks = env.observations.reshape(len(who), -1), env.masks.reshape(len(who), -1)
        waited_s = np.full(len(who), env.scenario.config.decisions.interval_s)
        self._note(who, of, now_s, seen, masks, env.rewards.reshape(-1), waited_s)
        actions = np.asarray(self.policy(env.observations, env.masks, deterministic=self.deterministic))
        self._chose(actions.reshape(-1))
        env.step(actions)

    def _note(
        self,
        e: Array,
        agents: Array,
        time_s: Array,
        observations: Array,
        masks: Array,
        earned: Array,
        waited_s: Array,
    ) -> None:
        """Note rows; `earned` and `waited_s` are since the agents' rows before, or the start."""
        self.rows.append(
            {
                "e": e.copy(),
                "agent": agents.copy(),
                "time_s": time_s.copy(),
                "observations": observations.copy(),
                "masks": masks.copy(),
                "earned": earned.copy(),
                "waited_s": waited_s.copy(),
            }
        )

    def _chose(self, actions: Array) -> None:
        """Note the actions of the latest rows; one that is not valid is carried out as 0."""
        rows = self.rows[-1]
        valid = (actions >= 0) & (actions < rows["masks"].shape[1])
        taken = np.where(valid, actions, 0).astype(np.int32)
        taken = np.where(np.take_along_axis(rows["masks"], taken[:, None], 1)[:, 0] == 1, taken, 0).astype(np.int32)
        rows["actions"] = taken
        rows["probabilities"] = probabilities_of(
            self.policy, rows["observations"], rows["masks"], rows["agent"], taken, deterministic=self.deterministic
        )

    def _close(self, e: int) -> None:
        env = self.env
        if isinstance(env, ArrivalEnv):
            observations, _, rewards, elapsed_s = env.closing(e)
        else:
            observations, rewards = env.observations[e], env.rewards[e]
            elapsed_s = np.full(len(env.agents), env.scenario.config.decisions.interval_s)
        for agent in range(len(env.agents)):
            self.closing[e, agent] = observations[agent].copy(), float(rewards[agent]), float(elapsed_s[agent])

    def table(self, schema: pa.Schema, first: int) -> pa.Table:
        """Return the rows, the environments being the episodes from `first` on, sorted by episode and time."""
        if not self.rows:
            return schema.empty_table()
        column = {name: np.concatenate([rows[name] for rows in self.rows]) for name in self.rows[0]}
        order = np.argsort(column["e"], kind="stable")  # each environment's rows are in the order of time
        column = {name: values[order] for name, values in column.items()}
        following, last = dataset.followers(column["e"], column["agent"])
        after = np.where(last, 0, following)
        rewards, elapsed_s = column["earned"][after], column["waited_s"][after]
        ends = [
            self.closing[place]
            for place in zip(column["e"][last].tolist(), column["agent"][last].tolist(), strict=True)
        ]
        rewards[last] = [reward for _, reward, _ in ends]
        elapsed_s[last] = [time_s for _, _, time_s in ends]
        features = column["observations"].shape[1]
        probabilities = column["probabilities"]
        offsets = np.concatenate([[0], np.cumsum(last) * features]).astype(np.int32)
        final = pa.array(np.concatenate([seen for seen, _, _ in ends]).astype(np.float32))
        columns = {
            dataset.EPISODE: pa.array(first + column["e"]),
            dataset.TIME: pa.array(column["time_s"]),
            dataset.AGENT: pa.DictionaryArray.from_arrays(
                pa.array(column["agent"].astype(np.int32)), pa.array(list(self.env.agents))
            ),
            dataset.OBSERVATION: pa.FixedSizeListArray.from_arrays(
                pa.array(column["observations"].reshape(-1)), features
            ),
            dataset.MASK: pa.FixedSizeListArray.from_arrays(
                pa.array(column["masks"].reshape(-1).astype(np.int8)), column["masks"].shape[1]
            ),
            dataset.ACTION: pa.array(column["actions"]),
            dataset.PROBABILITY: pa.array(probabilities, mask=np.isnan(probabilities)),
            dataset.REWARD: pa.array(rewards),
            dataset.ELAPSED: pa.array(elapsed_s),
            dataset.TRUNCATED: pa.array(last),
            dataset.FINAL_OBSERVATION: pa.ListArray.from_arrays(pa.array(offsets), final, mask=pa.array(~last)),
        }
        return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
