"""What is played to reproduce the PeersimGym paper (arXiv 2403.17637): settings, policies, budgets.

The paper's experiments are A (load) and B (size); C (offered load), D (other networks), E (large networks) and V (what
its results hang on) are what it left out. `docs/paper.md` says where each number comes from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from offload_rllib.config import EnvironmentConfig, PolicyConfig, load_environment, load_policy_config

LOADS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Raspberry Pis of each cell, by the number of nodes.
CELLS = {12: (8,), 19: (6, 6), 28: (8, 4, 6), 31: (4, 4, 6, 4)}
LOAD_OF_SIZES = 0.5
RHOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
RHO_OF_TRAINING = 0.8
STEPS_PER_EPISODE = 1000

# The paper's baselines; what it could have compared with, and did not.
PAPER_RULES = ("local", "random", "least_queue")
LEFT_OUT_RULES = ("shortest_finish", "always_server")
OTHER_RULES = ("power_of_two", "deadline_finish", "size_interval")
PAPER_LEARNERS = ("DDQN", "A2C", "PPO")
OURS = "PPO, delay"
POINTER = "PPO, pointer"
# No policy scores below this (`bound`): in C, the setting of about a dozen nodes under loads that can be served.
BOUND = "bound"
BOUND_SLOT_S = 4.0

# Of A at 0.5: what its program has, what its text says, and a later edit of its network files.
VARIANTS = {
    "as coded: newest first": (),
    "as printed: first in, first out": ("queue=fifo",),
    "NUC of 32,000 millicores": ("topology.nuc_millicores=32000",),
}

# Seconds that the authors needed for 100 episodes of about 1,000 steps, learners learning on (their repository).
AUTHORS_S = {
    "random": {12: 1719, 19: 2435, 28: 2620, 31: 2383},
    "least_queue": {12: 1754, 19: 2490, 28: 2697, 31: 2462},
    "local": {12: 1946, 19: 2096, 28: 2271, 31: 2304},
    "A2C": {12: 3183, 19: 4848, 28: 7438, 31: 7808},
    "DDQN": {12: 4869, 19: 7581, 28: 10614, 31: 10290},
}

# What the agents' program pays (docs/rewards.md), with the weights of the paper's experiments.
_PAPER_REWARD = (
    "reward={name: peersimgym, scope: own, scale: 0.01, utility: 10}",
    "reward.waiting_weight=1",
    "reward.communication_weight=10",
    "reward.execution_weight=10",
    "reward.overload_weight=2",
)
_DELAY_REWARD = ("reward={name: delay, scope: neighbourhood, scale: 0.01}",)
_ONE_PROCESS = ("training.runners=0", "training.envs_per_runner=8", "training.checkpoint_every=1000000")


@dataclass(frozen=True)
class Budget:
    """How much is spent.

    Attributes:
        name: of the budget.
        training_episodes: of 1,000 steps, for each policy of A and B.
        long_training_episodes: for each policy of C and D.
        tiers_training_episodes: for each policy of E.
        seeds: training runs of each policy.
        episodes: held-out episodes that each policy plays.
        large_episodes: the same for the largest network.
        loads: of A, tasks per second and client.
        rhos: of C.
        trained_there: sizes of D at which a policy is trained for comparison.
        growth: factors on the number of nodes in E.
        replay_ratio: of DDQN.
        as_published: networks and hyperparameters of the paper; A and B alone.
    """

    name: str
    training_episodes: int
    long_training_episodes: int
    tiers_training_episodes: int
    seeds: int
    episodes: int
    large_episodes: int
    loads: tuple[float, ...]
    rhos: tuple[float, ...]
    trained_there: tuple[int, ...]
    growth: tuple[int, ...]
    replay_ratio: float
    as_published: bool = False


BUDGETS = {
    "quick": Budget(
        name="quick",
        training_episodes=16,
        long_training_episodes=100,
        tiers_training_episodes=24,
        seeds=3,
        episodes=20,
        large_episodes=2,
        loads=(0.01, 0.1, 0.5, 0.9),
        rhos=(0.3, 0.6, 0.8, 1.0, 1.2),
        trained_there=(),
        growth=(1, 10, 100),
        replay_ratio=4.0,
    ),
    "standard": Budget(
        name="standard",
        training_episodes=60,
        long_training_episodes=160,
        tiers_training_episodes=72,
        seeds=5,
        episodes=100,
        large_episodes=10,
        loads=LOADS,
        rhos=RHOS,
        trained_there=(19, 28, 31),
        growth=(1, 10, 100),
        replay_ratio=4.0,
    ),
    "as_published": Budget(
        name="as_published",
        training_episodes=300,
        long_training_episodes=0,
        tiers_training_episodes=0,
        seeds=1,
        episodes=100,
        large_episodes=0,
        loads=LOADS,
        rhos=(),
        trained_there=(),
        growth=(),
        replay_ratio=500.0,
        as_published=True,
    ),
}


@dataclass(frozen=True)
class Setting:
    """An environment that policies play.

    Attributes:
        name: unique, e.g. ``A-0.5``.
        source: preset.
        overrides: of it.
        large: whether it is played for `large_episodes` only.
    """

    name: str
    source: str
    overrides: tuple[str, ...]
    large: bool = False

    def environment(self, *more: str) -> EnvironmentConfig:
        """Return its configuration, with further overrides."""
        return load_environment(self.source, [*self.overrides, *more])


@dataclass(frozen=True)
class Piece:
    """What is done at a time and kept in one file: rules that play, or one training run and what it plays.

    Attributes:
        name: unique; of the file.
        label: of the policy in tables; empty for rules; `BOUND` for the lower bound.
        seed: of the training.
        trained_on: where it learns.
        plays: where it is evaluated.
        rules: heuristics that play there.
        steps: environment steps of the training.
    """

    name: str
    label: str
    seed: int
    trained_on: Setting | None
    plays: tuple[Setting, ...]
    rules: tuple[str, ...] = ()
    steps: int = 0


def paper_setting(load: float, nodes: int) -> Setting:
    """Return a setting of experiment A (12 nodes) or B (load 0.5), with the rules that PeersimGym's code follows."""
    name = f"A-{load:g}" if nodes == 12 else f"B-{nodes}"
    overrides = (
        f"workload.load.tasks_per_second_per_client={load}",
        f"topology.rpi3_per_cluster={list(CELLS[nodes])}",
        "agents.types=[rpi3, nuc]",
    )
    return Setting(name, "paper_ether_12", overrides)


def settings_of(experiment: str, budget: Budget) -> dict[Any, Setting]:
    """Return the settings of an experiment by the number on its x-axis, or, of V, by what they are."""
    if experiment == "A":
        return {load: paper_setting(load, 12) for load in budget.loads}
    if experiment == "B":
        return {nodes: paper_setting(LOAD_OF_SIZES, nodes) for nodes in CELLS}
    if experiment == "C":
        return {rho: Setting(f"C-{rho:g}", "ether_12", (f"workload.load.rho={rho}",)) for rho in budget.rhos}
    if experiment == "D":
        sizes = CELLS if budget.rhos else {}
        return {
            nodes: _served(nodes) if nodes != 12 else Setting("C-0.8", "ether_12", ("workload.load.rho=0.8",))
            for nodes in sizes
        }
    if experiment == "E":
        return {21 * factor: _tiers(factor) for factor in budget.growth}
    if experiment == "V":
        base = paper_setting(LOAD_OF_SIZES, 12)
        chosen = {} if budget.as_published else VARIANTS
        return {
            label: replace(base, name=f"V-{number}", overrides=(*base.overrides, *more)) if more else base
            for number, (label, more) in enumerate(chosen.items())
        }
    raise ValueError(f"no experiment '{experiment}'")


def _served(nodes: int) -> Setting:
    return Setting(f"D-{nodes}", f"ether_{nodes}", ())


def _tiers(factor: int) -> Setting:
    """Return three tiers of so many times 21 nodes, as dense as with 21."""
    side_m = 100 * math.sqrt(factor)
    return Setting(
        f"E-{21 * factor}",
        "tiers_21",
        (
            f"topology.tiers.0.nodes={15 * factor}",
            f"topology.tiers.1.nodes={4 * factor}",
            f"topology.tiers.2.nodes={2 * factor}",
            f"topology.area_m=[{side_m}, {side_m}]",
            "decisions.max_destinations=8",
        ),
        large=factor > 10,
    )


def pieces(budget: Budget) -> Iterator[Piece]:
    """Yield everything that a budget asks for, the longest first, so that no core waits long for another in the end."""
    ruled = list(_rule_pieces(budget))
    yield from (piece for piece in ruled if piece.plays[0].large)
    training: list[Piece] = []
    steps, long_steps = (STEPS_PER_EPISODE * n for n in (budget.training_episodes, budget.long_training_episodes))
    paper = {s.name: s for experiment in "AB" for s in settings_of(experiment, budget).values()}
    learners = PAPER_LEARNERS if budget.as_published else (*PAPER_LEARNERS, OURS)
    for seed in range(budget.seeds):
        for setting in paper.values():
            training += [_training(label, setting, (setting,), seed, steps) for label in learners]
        varied = [setting for setting in settings_of("V", budget).values() if setting.name not in paper]
        training += [
            _training(label, setting, (setting,), seed, steps) for setting in varied for label in PAPER_LEARNERS
        ]
        rhos = settings_of("C", budget)
        if not rhos:
            continue
        home = rhos[RHO_OF_TRAINING]
        every_rho = tuple(rhos.values())
        training += [_training(label, home, every_rho, seed, long_steps) for label in PAPER_LEARNERS]
        networks = settings_of("D", budget)
        training.append(_training(POINTER, home, (*every_rho, *list(networks.values())[1:]), seed, long_steps))
        training += [
            _training(f"{POINTER}, trained there", networks[n], (networks[n],), seed, long_steps)
            for n in budget.trained_there
        ]
        tiers = tuple(settings_of("E", budget).values())
        tiers_steps = STEPS_PER_EPISODE * budget.tiers_training_episodes
        training.append(_training(POINTER, tiers[0], tiers, seed, tiers_steps))
    yield from sorted(training, key=lambda piece: -piece.steps)
    yield from (piece for piece in ruled if not piece.plays[0].large)


def _rule_pieces(budget: Budget) -> Iterator[Piece]:
    """Yield what is played without training: all rules, and the bound, in every setting."""
    rules = (*PAPER_RULES, *LEFT_OUT_RULES)
    seen: set[str] = set()
    for experiment in "ABCDEV":
        for setting in settings_of(experiment, budget).values():
            if setting.name in seen:
                continue
            seen.add(setting.name)
            if experiment == "C":
                yield Piece(f"bound-{setting.name}", BOUND, 0, None, (setting,))
            more = () if experiment in "ABV" else OTHER_RULES
            yield Piece(f"rules-{setting.name}", "", 0, None, (setting,), (*rules, *more))


def _training(label: str, home: Setting, plays: tuple[Setting, ...], seed: int, steps: int) -> Piece:
    short = label.lower().replace(", ", "_").replace(" ", "_")
    return Piece(f"{home.name}-{short}-{seed}", label, seed, home, plays, steps=steps)


def training_configs(piece: Piece, budget: Budget) -> tuple[EnvironmentConfig, PolicyConfig]:
    """Return what a piece trains on, and how."""
    if piece.trained_on is None:
        raise ValueError(f"{piece.name} trains nothing")
    in_paper = piece.trained_on.source == "paper_ether_12"
    reward = () if not in_paper else _DELAY_REWARD if piece.label == OURS else _PAPER_REWARD
    common = (*_ONE_PROCESS, f"training.env_steps={piece.steps}", f"training.seed={piece.seed}")
    environment = piece.trained_on.environment(*reward)
    if budget.as_published:
        return environment, load_policy_config(*_published(piece.label, common))
    algorithm = piece.label.partition(",")[0].lower()
    # A batch is an eighth of a short training, so that there are updates enough.
    batch = max(2000, min(8000, piece.steps // 8 // 1000 * 1000))
    own = {
        "ddqn": (
            f"algorithm.replay_ratio={budget.replay_ratio}",
            f"algorithm.epsilon_decay_env_steps={piece.steps // 4}",
            "algorithm.learning_starts=200",
            "algorithm.replay_in_checkpoints=false",
        ),
        # For trainings as short as these; the presets are made for 960,000 and 480,000 steps.
        "a2c": ("algorithm.lr=1e-3", "algorithm.entropy_coeff=0.01", "algorithm.final_entropy_coeff=0.001"),
        "ppo": (
            f"algorithm.batch_env_steps={batch}",
            "algorithm.lr=5e-4",
            "algorithm.final_lr=null",
            "algorithm.lambda=0.95",
            "algorithm.entropy_coeff=0.005",
            "algorithm.final_entropy_coeff=null",
        ),
    }[algorithm]
    if piece.label.startswith(POINTER):
        own = (*own, "network={kind: pointer, hidden: [64, 64], activation: relu}")
    return environment, load_policy_config(algorithm, [*common, *own])


def _published(label: str, common: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return preset and overrides with the paper's networks; its repository's PPO is of a later date."""
    if label != "PPO":
        own = ["algorithm.replay_in_checkpoints=false"] if label == "DDQN" else []
        return f"paper_{label.lower()}", [*common, *own]
    return "ppo", [
        *common,
        "sharing=per_node",
        "network={hidden: [512, 256, 128], activation: relu}",
        "algorithm.lr=1e-4",
        "algorithm.final_lr=null",
        "algorithm.lambda=1.0",
        "algorithm.epochs=1",
        "algorithm.minibatch_steps=64",
        "algorithm.batch_env_steps=2048",
        "algorithm.entropy_coeff=0.0",
        "algorithm.grad_clip=5.0",
    ]
