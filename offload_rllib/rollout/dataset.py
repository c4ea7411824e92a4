"""Decisions as an offline data set: a Parquet file, one row per decision, and what is accepted when one is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.simulator.types import Array

FORMAT = "1"
# Keys of the file's metadata.
FORMAT_KEY, ENVIRONMENT_KEY = "format", "environment"
EPISODE, TIME, AGENT, OBSERVATION, MASK, ACTION = "episode", "time_s", "agent", "observation", "mask", "action"
PROBABILITY, REWARD, ELAPSED, TRUNCATED = "probability", "reward", "elapsed_s", "truncated"
FINAL_OBSERVATION = "final_observation"
# What must be there to learn from a file.
NEEDED = (EPISODE, TIME, AGENT, OBSERVATION, MASK, ACTION, REWARD, ELAPSED, TRUNCATED)


def schema_of(features: int, actions: int, about: Mapping[str, str]) -> pa.Schema:
    """Return the columns of a file, with its metadata.

    Args:
        features: F, numbers of an observation.
        actions: R, of an agent.
        about: metadata beside the format's version; `ENVIRONMENT_KEY` must be among it.
    """
    fields = [
        (EPISODE, pa.int64()),
        (TIME, pa.float64()),
        (AGENT, pa.dictionary(pa.int32(), pa.string())),
        (OBSERVATION, pa.list_(pa.float32(), features)),
        (MASK, pa.list_(pa.int8(), actions)),
        (ACTION, pa.int32()),
        (PROBABILITY, pa.float32()),
        (REWARD, pa.float32()),
        (ELAPSED, pa.float64()),
        (TRUNCATED, pa.bool_()),
        (FINAL_OBSERVATION, pa.list_(pa.float32())),
    ]
    return pa.schema(fields, metadata={FORMAT_KEY: FORMAT, **about})


class DataSet(NamedTuple):
    """Decisions that were read from a file."""

    steps: AgentSteps
    """In the order of episodes, and of time within each; `environment` is the number of the episode."""
    episodes: int
    """How many; they are numbered from 0."""


def read_decisions(path: Path, env: NativeEnv) -> DataSet:
    """Return the decisions in a file, checked row by row.

    Args:
        path: a file of `record`, or one with the same columns.
        env: where they were taken.

    Raises:
        ConfigError: the file cannot be read, is of another environment, lacks a column, or holds what is no decision
            there; the message names file, row (from 0) and column.
    """
    table = _table(path, env)
    rows = _Rows(path, table)
    episode, when_s = rows.numbers(EPISODE, np.int64), rows.numbers(TIME, np.float64)
    observations = rows.lists(OBSERVATION, env.observation_size, np.float32)
    masks = rows.lists(MASK, env.num_actions, np.int8)
    actions = rows.numbers(ACTION, np.int64)
    rewards, elapsed_s = rows.numbers(REWARD, np.float32), rows.numbers(ELAPSED, np.float64)
    truncated = rows.numbers(TRUNCATED, np.bool_)
    agent = rows.agents(env.agents)
    rows.refuse((masks != 0) & (masks != 1), MASK, masks, "0 and 1")
    rows.refuse(elapsed_s < 0, ELAPSED, elapsed_s, "0 or more")
    rows.refuse((actions < 0) | (actions >= env.num_actions), ACTION, actions, f"0 to {env.num_actions - 1}")
    allowed = np.take_along_axis(masks, actions[:, None], 1)[:, 0] == 1
    rows.refuse(~allowed, ACTION, actions, "an action that the mask allows")
    order = np.lexsort((when_s, episode))  # stable: decisions of one instant stay as they are
    _, number = np.unique(episode, return_inverse=True)
    following, last = followers(number[order], agent[order])
    early = np.zeros(len(order), np.bool_)
    early[order] = truncated[order] & ~last
    rows.refuse(early, TRUNCATED, truncated, "false, for the agent decides again in that episode")
    closing = order[last]
    count, closings = len(order), len(closing)
    steps = AgentSteps(
        module_id="",
        agents=tuple(env.agents),
        agent=np.concatenate([agent[order], agent[closing]]),
        environment=np.concatenate([number[order], number[closing]]),
        observations=observations[order],
        masks=masks[order],
        actions=actions[order].astype(np.int32),
        log_probabilities=np.zeros(count, np.float32),
        rewards=rewards[order],
        elapsed_s=elapsed_s[order],
        following=following,
        # What agents saw at the end is not needed to learn from decisions.
        closing_observations=np.zeros((closings, env.observation_size), np.float32),
        closing_masks=np.zeros((closings, env.num_actions), np.int8),
        ended=truncated[closing],
        env_steps=count,
    )
    return DataSet(steps, int(number.max()) + 1)


def _table(path: Path, env: NativeEnv) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            given = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
            missing = [name for name in NEEDED if name not in file.schema_arrow.names]
            _check_origin(path, given, env)
            if missing:
                raise ConfigError(f"{path}: column '{missing[0]}' is missing; needed: {', '.join(NEEDED)}")
            table = file.read(list(NEEDED))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a Parquet file that can be read: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not len(table):
        raise ConfigError(f"{path}: holds no decision")
    return table


def _check_origin(path: Path, given: Mapping[str, str], env: NativeEnv) -> None:
    wanted = {FORMAT_KEY: FORMAT, ENVIRONMENT_KEY: fingerprint(env.scenario.config)}
    for key, value in wanted.items():
        if given.get(key) != value:
            found = f"'{given[key]}'" if key in given else "missing"
            about = "decisions of another environment do not fit" if key == ENVIRONMENT_KEY else "the only version"
            raise ConfigError(f"{path}: metadata '{key}' is {found}; accepted: '{value}' ({about})")


class _Rows:
    """The rows of a table, read column by column; errors name file, row and column."""

    def __init__(self, path: Path, table: pa.Table) -> None:
        self._path, self._table = path, table

    def refuse(self, wrong: Array, column: str, values: Array, accepted: str) -> None:
        """Raise ConfigError for the first row that is wrong, [N] or [N, k] bool."""
        places = np.argwhere(wrong)
        if not len(places):
            return
        row, *place = places[0].tolist()
        where = f", number {place[0]}" if place else ""
        value = values[tuple(places[0])]
        raise ConfigError(f"{self._path}: row {row}, column '{column}'{where}: {value}; accepted: {accepted}")

    def numbers(self, column: str, kind: Any) -> Array:
        """Return a column of finite numbers, [N]."""
        return self._converted(column, self._column(column), kind)

    def lists(self, column: str, size: int, kind: Any) -> Array:
        """Return a column of lists of finite numbers of equal length, [N, size]."""
        lists = self._column(column)
        if not (pa.types.is_list(lists.type) or pa.types.is_fixed_size_list(lists.type)):
            raise ConfigError(f"{self._path}: column '{column}' is {lists.type}; accepted: lists of {size} numbers")
        lengths = np.diff(lists.offsets.to_numpy()) if pa.types.is_list(lists.type) else lists.type.list_size
        found = np.broadcast_to(lengths, len(lists))
        self.refuse(found != size, column, found, f"lists of {size} numbers, not of so many")
        return self._converted(column, lists.flatten(), kind, size).reshape(-1, size)

    def agents(self, names: tuple[str, ...] | list[str]) -> Array:
        """Return the indices [N] int64 of the agents."""
        column = self._column(AGENT)
        given = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        place = {name: i for i, name in enumerate(names)}
        found = np.array([place.get(name, -1) for name in given.to_pylist()], np.int64)
        self.refuse(
            found < 0, AGENT, np.array(given.to_pylist(), object), f"agents of the environment: {', '.join(names[:12])}"
        )
        return found

    def _column(self, name: str) -> Any:
        column = self._table[name].combine_chunks()
        column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise ConfigError(f"{self._path}: row {row}, column '{name}': null; accepted: a value in every row")
        return column

    def _converted(self, column: str, values: Any, kind: Any, size: int = 1) -> Array:
        """Return finite numbers of a kind, [n]."""
        whole = not np.issubdtype(kind, np.floating)
        kinds = pa.types.is_boolean if kind is np.bool_ else pa.types.is_integer
        fits = kinds(values.type) or (not whole and pa.types.is_floating(values.type))
        if not fits:
            accepted = "bool" if kind is np.bool_ else "whole numbers" if whole else "numbers"
            raise ConfigError(f"{self._path}: column '{column}' is {values.type}; accepted: {accepted}")
        found = values.to_numpy(zero_copy_only=False)
        # Of a list's numbers the place is named, too.
        shape = (-1, size) if size > 1 else (-1,)
        absent = (
            values.is_null().to_numpy(zero_copy_only=False) if values.null_count else np.zeros(len(found), np.bool_)
        )
        self.refuse(absent.reshape(shape), column, found.reshape(shape), "numbers, not null")
        if not whole:
            self.refuse(~np.isfinite(found).reshape(shape), column, found.reshape(shape), "finite numbers")
        return found.astype(kind)


def followers(episode: Array, agent: Array) -> tuple[Array, Array]:
    """Return for each row, in the order of episodes and time, its successor, and whether it is its agent's last.

    Returns:
        [N] int64 the same agent's next row of the episode, or N + the number of a closing state, which are in the order
        of the last rows; and [N] bool.
    """
    count = len(agent)
    grouped = np.lexsort((np.arange(count), agent, episode))
    same = (np.diff(episode[grouped]) == 0) & (np.diff(agent[grouped]) == 0)
    following = np.full(count, -1, np.int64)
    following[grouped[:-1][same]] = grouped[1:][same]
    last = following < 0
    following[last] = count + np.arange(int(last.sum()))
    return following, last
