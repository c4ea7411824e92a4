"""Policies on disk: weights as safetensors, everything else as JSON; read back without ray and without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.files import written_at_once
from offload_rllib.policies.network import Actor

FORMAT_VERSION = 2
DESCRIPTION = "policy.json"
POLICY_FOLDER = "policy"  # inside a checkpoint, and inside a run


@dataclass(frozen=True)
class PolicyDescription:
    """What is needed to use a saved policy, and where it comes from."""

    format: int
    algorithm: str
    observation_size: int
    actions: int
    hidden: tuple[int, ...]
    activation: str
    environment: str
    """Fingerprint of the environment it was trained on."""
    env_steps: int
    """Environment steps it was trained for."""
    policies: tuple[str, ...]
    """Names of the weight files, without their ending."""


def save_policies(folder: Path, description: PolicyDescription, actors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write `policy.json` and one safetensors file per policy into a folder; the description last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, weights in actors.items():
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in weights.items()}, folder / f"{name}.safetensors"
        )
    with written_at_once(folder / DESCRIPTION) as partial:
        partial.write_text(json.dumps(asdict(description), indent=2) + "\n", encoding="utf-8")


class SavedPolicy:
    """A trained policy: a plain callable from observations and masks to actions.

    Attributes:
        description: where it comes from and what it expects.
    """

    def __init__(self, description: PolicyDescription, actor: Actor) -> None:
        """Wrap an actor; use `load_saved_policy`."""
        self.description = description
        self._actor = actor.eval()
        self._generator = torch.Generator()

    def seed(self, seed: int) -> None:
        """Restart the draws of sampled actions."""
        self._generator.manual_seed(seed)

    @torch.inference_mode()
    def __call__(self, observations: np.ndarray, masks: np.ndarray, *, deterministic: bool = True) -> np.ndarray:
        """Return actions [...] int64.

        Args:
            observations: [..., F] float32.
            masks: [..., R], 1 where an action is valid.
            deterministic: take the action of the highest score, else draw by the policy's probabilities.

        Raises:
            ValueError: the arrays are not of the policy's sizes.
        """
        expected = (self.description.observation_size, self.description.actions)
        if (observations.shape[-1], masks.shape[-1]) != expected:
            raise ValueError(
                f"the policy takes {expected[0]} observations and {expected[1]} actions, "
                f"got {observations.shape[-1]} and {masks.shape[-1]}"
            )
        logits = self._actor(
            torch.from_numpy(np.asarray(observations, np.float32)), torch.from_numpy(np.asarray(masks))
        )
        if deterministic:
            return logits.argmax(-1).numpy()
        # The largest of logits plus Gumbel noise is a draw from their softmax.
        noise = torch.empty_like(logits).exponential_(generator=self._generator).log()
        return (logits - noise).argmax(-1).numpy()


def load_saved_policy(folder: Path) -> SavedPolicy:
    """Return the policy of a folder that `save_policies` wrote.

    Raises:
        ConfigError: the folder holds no policy, or one that cannot be read.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ConfigError(f"{folder}: no policy here: {DESCRIPTION} is missing")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in ("hidden", "policies"):
            content[key] = tuple(content[key])
        description = PolicyDescription(**content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: not the description of a policy ({error})") from error
    if description.format != FORMAT_VERSION:
        raise ConfigError(f"{path}: format {description.format}; this version reads format {FORMAT_VERSION}")
    try:
        actor = Actor(description.observation_size, description.actions, description.hidden, description.activation)
        weights = folder / f"{description.policies[0]}.safetensors"
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{path}: describes no network that can be made ({error!r})") from error
    try:
        actor.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{weights}: not the weights that {DESCRIPTION} describes ({error})") from error
    return SavedPolicy(description, actor)
