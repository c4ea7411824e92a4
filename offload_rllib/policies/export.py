"""Trained policies as ONNX files, for programs without Python or torch."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.files import written_at_once
from offload_rllib.policies.network import OF_ROWS
from offload_rllib.policies.saved import PolicyDescription, SavedPolicy

FORMATS = ("onnx",)
NEEDED = ("onnx", "onnxscript")
# Of the operators; the newest that the exporter writes without a conversion.
OPSET = 18


class _Decision(nn.Module):
    """A network that returns its scores and the best action."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, observations: Tensor, action_mask: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.network(observations, action_mask)
        return scores, scores.argmax(-1)


class _RememberedDecision(nn.Module):
    """The same of a network that remembers; it also returns the states behind the decision."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, observations: Tensor, action_mask: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
        scores, states = self.network(observations, action_mask, memory)
        return scores, scores.argmax(-1), states


def export_onnx(policy: SavedPolicy, output: Path) -> dict[str, Path]:
    """Write every policy as an ONNX file and return the files by policy.

    A file takes `observations` [B, F] float32 and `action_mask` [B, R] int8 and gives `scores` [B, R] float32 (logits,
    or action values) and `actions` [B] int64, the best ones, for any B; with networks of rows for any R too. A network
    that remembers also takes `memory` [B, 1 + H] float32, log(1 + s since the agent's previous decision) and its state,
    and gives `states` [B, H] behind the decision. Its metadata hold the policy's name and, as JSON, its description.

    Args:
        policy: from `load_policy`.
        output: the file; with several policies `NAME.onnx` becomes `NAME-POLICY.onnx` for each.

    Raises:
        ConfigError: a file exists, its folder does not, or the packages of the extra `export` are not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"export: needs {', '.join(missing)}: pip install 'offload-rllib[export]'")
    if not output.parent.is_dir():
        raise ConfigError(f"{output.parent}: no such folder")
    several = len(policy.networks) > 1
    paths = {
        name: output.with_name(f"{output.stem}-{name}{output.suffix}") if several else output
        for name in policy.networks
    }
    for path in paths.values():
        if path.exists():
            raise ConfigError(f"{path}: exists and is not overwritten; choose another --output")
    for name, path in paths.items():
        _write(policy.description, name, policy.networks[name], path)
    return paths


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages on torch's internals and on packages that are not used here."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _write(description: PolicyDescription, name: str, network: nn.Module, path: Path) -> None:
    # Sizes of one would be exported as constants.
    observations = torch.zeros(2, description.observation_size)
    masks = torch.ones(2, description.actions, dtype=torch.int8)
    batch = torch.export.Dim("batch", min=1)
    dimensions: dict[str, dict[int, Any]] = {"observations": {0: batch}, "action_mask": {0: batch}}
    if description.network.kind in OF_ROWS:
        first, here_size, row_size = description.rows[:3]
        destinations = torch.export.Dim("destinations", min=1)
        size = row_size * destinations + (first + here_size)
        dimensions = {"observations": {0: batch, 1: size}, "action_mask": {0: batch, 1: destinations + 1}}
    decision: nn.Module = _Decision(network)
    inputs, outputs = (observations, masks), ["scores", "actions"]
    if description.network.memory:
        decision, inputs = _RememberedDecision(network), (*inputs, torch.zeros(2, 1 + description.network.memory))
        dimensions["memory"] = {0: batch}
        outputs.append("states")
    with _quiet():
        program = torch.onnx.export(
            decision.eval(),
            inputs,
            input_names=list(dimensions),
            output_names=outputs,
            dynamic_shapes=dimensions,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:  # only the exporter that is not used here returns nothing
        raise RuntimeError(f"{path}: torch exported nothing")
    program.model.metadata_props.update(
        {"policy": name, "description": json.dumps(description.model_dump(mode="json"))}
    )
    with written_at_once(path) as partial:
        program.save(str(partial))
