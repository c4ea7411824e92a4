"""The options of every verb that plays episodes: of which environment, and which."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from offload_rllib.config.decisions import parse_weights
from offload_rllib.config.trust import TRUST

EnvArgument = Annotated[
    str, typer.Argument(help="A preset's name (see `envs`) or a path to a YAML file.", metavar="ENV")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the environment, e.g. workload.load.rho=1.0."),
]
SetPolicyOption = Annotated[
    list[str] | None,
    typer.Option("--set-policy", metavar="KEY=VALUE", help="Change a key of the policy, e.g. algorithm.lr=1e-3."),
]


WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="OBJECTIVE=WEIGHT,...",
        help="Weights of the objectives, e.g. response=0.7,energy=0.3; otherwise as the environment says.",
    ),
]


def changes_of(set_: list[str] | None, weights: str | None) -> list[str]:
    """Return the overrides of an environment that --set and --weights stand for.

    Raises:
        ConfigError: the weights are not accepted.
    """
    changes = list(set_ or ())
    if weights is not None:
        changes.append(f"reward.weights={json.dumps(parse_weights(weights).model_dump())}")
    return changes


def _trust_all(trust: bool) -> bool:  # noqa: FBT001 - typer's signature
    """Let every file be trusted, in the processes that a command starts, too."""
    if trust:
        os.environ[TRUST] = "1"
    return trust


TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        callback=_trust_all,
        envvar=TRUST,
        help="Run Python code that a file of a run, sweep, comparison or policy names; see docs/trust.md.",
    ),
]
EpisodesOption = Annotated[int, typer.Option("--episodes", min=2, help="Held-out episodes, the same for all policies.")]
HeldOutSeedOption = Annotated[
    int, typer.Option("--held-out-seed", min=0, help="Seed of the held-out episodes; training never uses them.")
]
MetricOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="A metric of the tables and figures (docs/metrics.md), or a function package.module:function of an "
        "episode's figures; repeat.",
    ),
]
