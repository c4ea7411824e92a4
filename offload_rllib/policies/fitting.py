"""Whether a trained policy fits an environment: by sizes, and by the moments at which it decides."""

from __future__ import annotations

from typing import Literal

from offload_rllib.config.policy import Network
from offload_rllib.envs.layout import Blocks
from offload_rllib.policies.network import OF_ROWS

When = Literal["arrival", "interval"]
MEANING: dict[When, str] = {"arrival": "a task is decided when it arrives", "interval": "all agents act by a clock"}


def other_form(trained: When | None, met: When) -> str:
    """Return why a policy does not fit an environment by the moments at which it decides, or nothing if it does.

    Args:
        trained: `decisions.when` of its training; None: not known.
        met: the same of the environment.
    """
    if trained is None or trained == met:
        return ""
    return (
        f"this policy was trained with decisions.when: {trained} ({MEANING[trained]}); the environment has "
        f"decisions.when: {met} ({MEANING[met]}), where it meets other observations and other lengths of time. "
        f"Accepted: an environment with decisions.when: {trained}, or a policy trained with decisions.when: {met}"
    )


def has_rows(blocks: Blocks, size: int, actions: int) -> bool:
    """Return whether an observation of so many numbers consists of blocks for so many actions."""
    return size == blocks.first + blocks.here + (actions - 1) * blocks.row


def unfounded(blocks: Blocks, size: int, actions: int) -> str:
    """Return why an observation of so many numbers cannot hold the outlooks of its blocks, or nothing if it can."""
    row, outlook, embedding = blocks[2:]
    if not outlook and not embedding:
        return ""
    if outlook and embedding and outlook < row and has_rows(blocks, size, actions):
        return ""
    return f"there are no rows that end with {outlook} numbers, of which {embedding} are made"


def other_embedding(trained: Blocks, met: Blocks) -> str:
    """Return why a policy does not fit an environment by what its nodes send each other, or nothing if it does.

    Args:
        trained: of its training.
        met: of the environment.
    """
    if trained.embedding == met.embedding:
        return ""
    return (
        f"this policy sends {trained.embedding} numbers with a broadcast; the environment has information.embedding: "
        f"{met.embedding}. Accepted: information.embedding: {trained.embedding}"
    )


def misfit_of(network: Network, rows: Blocks, trained: tuple[int, int], met: tuple[int, int]) -> str:
    """Return why a network does not fit an environment, or nothing if it does.

    Args:
        network: its kind.
        rows: what is where in an observation, where it was trained.
        trained: size of an observation and number of actions there.
        met: the same of the environment.
    """
    size, actions = met
    if network.kind in OF_ROWS:
        if has_rows(rows, size, actions):
            return ""
        first, here_size, row_size = rows[:3]
        return (
            f"this policy takes {first + here_size} + {row_size} x destinations observations; the environment has "
            f"{size} for {actions - 1} destinations"
        )
    if met == trained:
        return ""
    return (
        f"this policy takes {trained[0]} observations and {trained[1]} actions; the environment has {size} and "
        f"{actions}. A policy with `network.kind: pointer` would fit both"
    )
