"""What docs/hype.md compares: environments, methods and the budget, cut into pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from offload_rllib.config import EnvironmentConfig, PolicyConfig, load_environment, load_policy_config
from scripts.hype import dqn_lstm, droo, federated, genetic, mappo
from scripts.results.study import in_one_process

RULES, TUNED, BOUND = "rules", "tuned_rule", "bound"
HELD_OUT_SEED = 0

Train = Callable[..., Any]


@dataclass(frozen=True)
class Method:
    """Something that learns from a budget of decisions.

    Attributes:
        name: in tables, files and commands.
        title: for readers.
        kind: `rebuilt` from a paper, a `preset` of this project, or a `rule` whose parameter is tuned.
        train: of a rebuilt one.
        settings: of a rebuilt one.
        draws: whether it also plays by drawing its actions.
    """

    name: str
    title: str
    kind: Literal["rebuilt", "preset", "rule"]
    train: Train | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    draws: bool = False


METHODS = (
    Method(TUNED, "the best rule, with its parameter", "rule"),
    Method("droo", "DROO-like", "rebuilt", droo.train, droo.SETTINGS),
    Method("genetic", "genetic algorithm", "rebuilt", genetic.train, genetic.SETTINGS),
    Method("mappo", "MAPPO", "rebuilt", mappo.train, mappo.SETTINGS, draws=True),
    Method("federated_dqn", "federated double DQN", "rebuilt", federated.train, federated.SETTINGS),
    Method("dqn_lstm", "dueling double DQN with LSTM", "rebuilt", dqn_lstm.train, dqn_lstm.SETTINGS),
    Method("ppo", "PPO, preset", "preset", draws=True),
    Method("a2c", "A2C, preset", "preset", draws=True),
    Method("ddqn", "DDQN, preset", "preset"),
)
BY_NAME = {method.name: method for method in METHODS}
# By what the page calls them: presets as they are shipped.
ENVIRONMENTS = {
    "ether_12": "The PeersimGym paper's network, Alibaba jobs, rho 0.8",
    "geometric_20": "Random geometric network, 20 nodes, rho 0.7",
}


@dataclass(frozen=True)
class Budget:
    """How much each method may do, and how it is judged.

    Attributes:
        decisions: of the training, per method and training seed.
        seeds: training seeds, 0 to this - 1.
        episodes: held-out ones, the same for all.
    """

    decisions: int = 60_000
    seeds: int = 3
    episodes: int = 20


@dataclass(frozen=True)
class Piece:
    """The smallest part of the study: one method with one seed in one environment.

    Attributes:
        environment: a preset.
        method: one of `METHODS`, all rules (`RULES`), or the lower bound (`BOUND`).
        seed: of the training; None for what is not trained.
    """

    environment: str
    method: str
    seed: int | None = None

    @property
    def name(self) -> str:
        """Of its file."""
        return "-".join([self.environment, self.method, *([] if self.seed is None else [str(self.seed)])])


def pieces(budget: Budget) -> Iterator[Piece]:
    """Yield all pieces: environment by environment, seed by seed, so that an unfinished study has all methods."""
    for environment in ENVIRONMENTS:
        yield Piece(environment, RULES)
        yield Piece(environment, BOUND)
        for seed in range(budget.seeds):
            yield from (Piece(environment, method.name, seed) for method in METHODS)


def environment_of(piece: Piece) -> EnvironmentConfig:
    """Return the configuration of a piece's environment."""
    return load_environment(piece.environment)


def preset_of(piece: Piece, budget: Budget) -> PolicyConfig:
    """Return a preset of `policies/` as it is shipped, with the budget and the seed of a piece, in one process."""
    changes = [f"training.env_steps={budget.decisions}", f"training.seed={piece.seed}", *in_one_process(piece.method)]
    return load_policy_config(piece.method, changes)
