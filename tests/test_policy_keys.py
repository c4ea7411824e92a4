"""Every key of a policy file reaches what uses it: one row per key, and no key without a row."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.environments import ARRIVAL, small_environment
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.tune.registry import get_trainable_cls

from offload_rllib.algorithms.a2c import A2CConfig
from offload_rllib.algorithms.appo import OffloadAPPOConfig
from offload_rllib.algorithms.ddqn import DDQNConfig
from offload_rllib.algorithms.ppo import OffloadPPOConfig
from offload_rllib.algorithms.registry import ALGORITHMS, register_algorithms
from offload_rllib.cluster.connection import Cluster, Node
from offload_rllib.config import PolicyConfig, load_environment, load_policy_config
from offload_rllib.config.algorithms import A2C, APPO, DDQN, PPO
from offload_rllib.config.base import Schema
from offload_rllib.config.policy import Network, Overrides, Sharing, Training
from offload_rllib.policies.module import LOCAL
from offload_rllib.rollout.episodes_runner import EpisodesEnvRunner
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.training import train as training_module
from offload_rllib.training.rllib_config import algorithm_config, built

ENV_STEPS = 960


class Built(NamedTuple):
    """A policy, and what is made of it."""

    policy: PolicyConfig
    rllib: Any
    module: dict[str, Any]
    """`model_config` of the modules."""
    learner: dict[str, Any]
    """`learner_config_dict`."""


class Key(NamedTuple):
    """One key: a value that is not its default, and where it must be found.

    Attributes:
        name: in the file.
        value: to be given.
        found: returns from `Built` what the value must have become.
        expected: what that is; None: the value itself.
        beside: other keys of the policy that the value needs, by path.
    """

    name: str
    value: Any
    found: Callable[[Built], Any]
    expected: Any = None
    beside: dict[str, Any] = {}  # noqa: RUF012 - never changed


def module_key(name: str) -> Callable[[Built], Any]:
    return lambda built: built.module[name]


def setting(name: str) -> Callable[[Built], Any]:
    return lambda built: getattr(built.rllib, name)


def learner_setting(name: str) -> Callable[[Built], Any]:
    return lambda built: built.learner[name]


def moving(name: str) -> list[Key]:
    """Return the rows of a value with a schedule."""
    return [
        Key(name, 0.003, setting(name)),
        Key(f"final_{name}", 0.001, setting(name), [[0, 0.003], [ENV_STEPS, 0.001]], {f"algorithm.{name}": 0.003}),
    ]


class OwnPPO(OffloadPPOConfig):
    """An implementation of one's own."""


class OwnA2C(A2CConfig):
    """An implementation of one's own."""


class OwnAPPO(OffloadAPPOConfig):
    """An implementation of one's own."""


class OwnDDQN(DDQNConfig):
    """An implementation of one's own."""


def implementation(name: str) -> Key:
    """Return the row of an implementation of one's own."""
    return Key("implementation", f"{__name__}:{name}", lambda built: type(built.rllib).__name__, name)


COMMON = [
    *moving("lr"),
    Key("gamma", 0.77, setting("gamma")),
    Key("discount_s", 0.5, setting("discount_s")),
    Key("grad_clip", 0.33, setting("grad_clip")),
]
ACTOR_CRITIC = [
    *COMMON,
    *moving("entropy_coeff"),
    Key("lambda", 0.66, setting("lambda_")),
    Key("vf_loss_coeff", 0.22, setting("vf_loss_coeff")),
    Key("batch_env_steps", 320, setting("train_batch_size_per_learner")),
    Key("idle_per_choice", 0.44, learner_setting("idle_per_choice")),
]
ON_POLICY = [
    *ACTOR_CRITIC,
    Key("learner", "torch", learner_setting("gradients")),
    Key("exchange", "gradients", learner_setting("exchange")),
    Key(
        "exchange_batches",
        3,
        lambda built: (built.learner["exchange_batches"], built.learner["budget_env_steps"]),
        (3, ENV_STEPS),
    ),
    Key("late_share", 0.5, learner_setting("late_share")),
    Key(
        "pull_coeff",
        0.3,
        lambda built: (built.learner["pull"], built.learner["budget_env_steps"]),
        (0.3, ENV_STEPS),
        {"training.imitate": "local"},
    ),
    Key("critic", "central", module_key("critic")),
    Key(
        "constraints",
        ({"figure": "late_share", "at_most": 0.25, "largest": 7.0},),
        lambda built: (
            [(one["at_most"], one["largest"]) for one in built.learner.get("constraints", [])],
            built.rllib.env_config.get("costs", []),
        ),
        ([(0.25, 7.0)], ["late_share"]),
    ),
    Key("credit", "annealed", lambda built: built.rllib.env_config["credit"]),
    Key("minibatch_steps", 48, setting("minibatch_size")),
    Key("memory_steps", 7, learner_setting("memory_steps")),
]
KEYS: dict[type[Schema], list[Key]] = {
    PPO: [
        *ON_POLICY,
        implementation("OwnPPO"),
        Key("name", "PPO", lambda built: built.rllib.algo_class.__name__),
        Key("clip", 0.11, setting("clip_param")),
        Key("epochs", 5, setting("num_epochs")),
    ],
    A2C: [*ON_POLICY, implementation("OwnA2C"), Key("name", "A2C", lambda built: built.rllib.algo_class.__name__)],
    APPO: [
        *ACTOR_CRITIC,
        implementation("OwnAPPO"),
        Key("name", "APPO", lambda built: built.rllib.algo_class.__name__),
        Key("clip", 0.11, setting("clip_param")),
        Key("fragment_steps", 10, setting("rollout_fragment_length")),
        Key("minibatch_steps", 48, setting("minibatch_steps")),
        Key("learner", "torch", learner_setting("gradients")),
        Key(
            "exchange_uses",
            3,
            lambda built: (built.learner["exchange_uses"], built.rllib.broadcast_interval),
            (3, 3),
            {
                "training.learners": 2,
                "algorithm.batch_env_steps": 160,
                "algorithm.uses_per_batch": 2,
                "algorithm.least_uses_per_batch": 2.0,
            },
        ),
        Key("uses_per_batch", 3, setting("circular_buffer_iterations_per_batch")),
        Key("least_uses_per_batch", 0.5, setting("least_uses_per_batch")),
        Key("buffer_batches", 7, setting("circular_buffer_num_batches")),
        Key("target_update_every", 9, setting("target_update_every")),
        Key("importance_clip", 1.7, setting("target_worker_clipping")),
        Key("rho_clip", 0.8, setting("vtrace_clip_rho_threshold")),
        Key("pg_rho_clip", 0.9, setting("vtrace_clip_pg_rho_threshold")),
        Key("report_env_steps", 240, setting("min_sample_timesteps_per_iteration")),
    ],
    DDQN: [
        *COMMON,
        implementation("OwnDDQN"),
        Key("name", "DDQN", lambda built: built.rllib.algo_class.__name__),
        Key("n_step", 3, setting("n_step")),
        Key("dueling", value=False, found=module_key("dueling")),
        Key("mixer", "qmix", module_key("mixer")),
        Key("mixing_units", 6, module_key("mixing_units"), beside={"algorithm.mixer": "qmix"}),
        Key("learner", "torch", learner_setting("gradients")),
        Key("batch_transitions", 48, setting("train_batch_size_per_learner")),
        Key("replay_ratio", 2.5, setting("replay_ratio")),
        Key("replay_capacity", 500, setting("replay_capacity")),
        Key("replay_in_checkpoints", value=False, found=setting("replay_in_checkpoints")),
        Key("learning_starts", 33, setting("learning_starts")),
        Key("priority_alpha", 0.3, setting("priority_alpha")),
        Key("priority_beta", 0.2, setting("priority_beta"), [[0, 0.2], [ENV_STEPS, 1.0]]),
        Key("target_update_every", 9, setting("target_update_every")),
        Key("target_tau", 0.6, setting("target_tau")),
        Key("huber_delta", 1.9, setting("huber_delta")),
        Key("epsilon_initial", 0.9, module_key("epsilon"), [[0, 0.9], [500, 0.02]]),
        Key("epsilon_final", 0.01, module_key("epsilon"), [[0, 0.8], [500, 0.01]]),
        Key("epsilon_decay_env_steps", 400, module_key("epsilon"), [[0, 0.8], [400, 0.02]]),
        Key(
            "sample_env_steps",
            80,
            lambda built: (built.rllib.sample_env_steps, built.rllib.rollout_fragment_length),
            (80, 20),
        ),
        Key("batch_env_steps", 320, setting("min_sample_timesteps_per_iteration")),
    ],
    Network: [
        Key("kind", "pointer", module_key("kind")),
        Key("hidden", [7, 5], module_key("hidden"), (7, 5)),
        Key("activation", "relu", module_key("activation")),
        Key("heads", 4, module_key("heads")),
        Key("memory", 6, module_key("memory")),
    ],
    Sharing: [
        Key("kind", "per_node", lambda built: sorted(built.rllib.policies), ["a", "b", "c", "d"]),
        Key(
            "mapping",
            {"x": ["a", "d"], "y": ["b", "c"]},
            lambda built: [built.rllib.policy_mapping_fn(agent) for agent in "abcd"],
            ["x", "y", "y", "x"],
            {"sharing.kind": "mapping"},
        ),
    ],
    Overrides: [
        Key(
            key,
            value,
            lambda built: built.rllib.algorithm_config_overrides_per_module["shared"],
            expected,
            {"algorithm.final_lr": 1e-5, "algorithm.final_entropy_coeff": 0.0},
        )
        for key, value, expected in [
            ("lr", 0.02, {"lr": [[0, 0.02], [ENV_STEPS, 1e-5]]}),
            ("final_lr", 0.002, {"lr": [[0, 3e-4], [ENV_STEPS, 0.002]]}),
            ("clip", 0.3, {"clip_param": 0.3}),
            ("entropy_coeff", 0.2, {"entropy_coeff": [[0, 0.2], [ENV_STEPS, 0.0]]}),
            ("final_entropy_coeff", 0.1, {"entropy_coeff": [[0, 0.05], [ENV_STEPS, 0.1]]}),
            ("vf_loss_coeff", 0.9, {"vf_loss_coeff": 0.9}),
            ("grad_clip", 0.7, {"grad_clip": 0.7}),
        ]
    ],
    Training: [
        Key("env_steps", 320, lambda built: built.rllib.lr, [[0, 3e-4], [320, 1e-5]], {"algorithm.final_lr": 1e-5}),
        Key("runners", 1, setting("num_env_runners")),
        Key("env_runner", "stock", setting("env_runner_cls"), MultiAgentEnvRunner),
        Key("envs_per_runner", 8, setting("num_envs_per_env_runner")),
        Key("cpus_per_runner", 0.3, setting("num_cpus_per_env_runner")),
        Key("learners", 2, lambda built: (built.rllib.num_learners, built.rllib.train_batch_size_per_learner), (2, 80)),
        Key("gpus", 1.5, setting("num_gpus_per_learner")),
        Key("learner_threads", 3, learner_setting("torch_threads")),
        Key(
            "sample_timeout_s",
            17.0,
            lambda built: (built.rllib.sample_timeout_s, built.rllib.env_runner_restore_timeout_s),
            (17.0, 17.0),
        ),
        Key("sample_attempts", 9, learner_setting("sample_attempts")),
        Key("seed", 5, lambda built: (built.rllib.seed, built.rllib.env_config["seed"]), (5, 5)),
    ],
    PolicyConfig: [],
}
# Keys that the run uses, or that name code, and what tests them.
OF_THE_RUN = {
    "callbacks": ("test_own_code.py", "test_an_implementation_callbacks_and_metrics_of_ones_own_are_used"),
    "metrics": ("test_own_code.py", "test_an_implementation_callbacks_and_metrics_of_ones_own_are_used"),
    "module": ("test_own_code.py", "test_a_module_of_ones_own_is_named_trained_kept_and_loaded"),
    "checkpoint_every": ("test_policy_keys.py", "test_checkpoints_and_the_end_of_a_run_are_as_configured"),
    "keep_checkpoints": ("test_policy_keys.py", "test_checkpoints_and_the_end_of_a_run_are_as_configured"),
    "checkpoint_every_s": ("test_watch.py", "test_a_checkpoint_is_asked_for_when_its_time_has_come"),
    "imitate": ("test_imitation.py", "test_a_run_clones_once"),
    "start_from": ("test_warm_start.py", "test_before_its_first_decision_it_is_the_source"),
    "final_policy": ("test_imitation.py", "test_a_run_from_a_clone"),
    "keep_best": ("test_watch.py", "test_the_policy_of_the_lowest_score_is_kept"),
    "tracking": ("test_sweep_plans.py", "test_trackers_are_imported_only_on_demand_and_refused_where_they_are_missing"),
}
# Keys of a policy file that hold the others, or only describe.
SECTIONS = {"description", "version", "sharing", "algorithm", "network", "policies", "training"}
SMALL = {
    PPO: {"batch_env_steps": 160, "minibatch_steps": 64},
    A2C: {"batch_env_steps": 160},
    APPO: {"batch_env_steps": 80, "fragment_steps": 20},
    DDQN: {
        "learning_starts": 50,
        "replay_capacity": 1000,
        "sample_env_steps": 160,
        "epsilon_initial": 0.8,
        "epsilon_final": 0.02,
        "epsilon_decay_env_steps": 500,
    },
}
PATHS = {Network: "network", Sharing: "sharing", Overrides: "policies.shared", Training: "training"}


def build(schema: type[Schema], key: Key) -> Built:
    """Return what comes of a small policy with one key set."""
    algorithm = schema if schema in SMALL else PPO
    content: dict[str, Any] = {
        "algorithm": {"name": algorithm.__name__} | SMALL[algorithm],
        "training": {"runners": int(algorithm is APPO), "envs_per_runner": 4, "env_steps": ENV_STEPS},
    }
    if schema is Overrides:
        content["algorithm"]["entropy_coeff"] = 0.05
    for path, value in {f"{PATHS.get(schema, 'algorithm')}.{key.name}": key.value, **key.beside}.items():
        *sections, name = path.split(".")
        part = content
        for section in sections:
            part = part.setdefault(section, {})
        part[name] = value
    policy = load_policy_config(content)
    changes: dict[str, Any] = {}
    if "training.imitate" in key.beside or key.name in ("memory", "mixer", "mixing_units", "credit"):
        changes = {"decisions": ARRIVAL}
    environment = small_environment(**changes)
    config = algorithm_config(load_environment(environment), policy, cpus=4)
    return Built(policy, config, config.rl_module_spec.model_config, config.learner_config_dict)


ROWS = [(schema, key) for schema, keys in KEYS.items() for key in keys]


@pytest.mark.parametrize(("schema", "key"), ROWS, ids=[f"{schema.__name__}-{key.name}" for schema, key in ROWS])
def test_a_key_reaches_what_uses_it(schema: type[Schema], key: Key) -> None:
    field = next(field for name, field in schema.model_fields.items() if (field.alias or name) == key.name)
    if key.name != "name":
        assert key.value != field.default, "the value must differ from the default"
    expected = key.value if key.expected is None else key.expected
    assert key.found(build(schema, key)) == expected


def test_every_key_has_a_row() -> None:
    for schema, keys in KEYS.items():
        names = {field.alias or name for name, field in schema.model_fields.items()}
        traced = {key.name for key in keys}
        traced |= set(OF_THE_RUN) & names if schema in (Training, Network) else set()
        traced |= SECTIONS if schema is PolicyConfig else set()
        assert traced == names, schema.__name__


# What an environment, or the rest of the policy file, decides beside the algorithm.
NOT_OF_THE_ALGORITHM = {"name", "implementation", "credit"}
DEFAULTS = [(schema, key) for schema in SMALL for key in KEYS[schema] if key.name not in NOT_OF_THE_ALGORITHM]


@pytest.mark.parametrize(("schema", "key"), DEFAULTS, ids=[f"{schema.__name__}-{key.name}" for schema, key in DEFAULTS])
def test_a_configuration_made_without_a_file_has_the_defaults_of_the_schema(schema: type[Schema], key: Key) -> None:
    name = schema.__name__
    policy = load_policy_config({"algorithm": {"name": name}, "training": {"envs_per_runner": 8}})
    given = algorithm_config(load_environment(small_environment()), policy, cpus=4)
    made: Any = ALGORITHMS[name].get_default_config()
    module = {"critic": LOCAL} | (made.get_default_rl_module_spec().model_config or {})
    with_file = Built(policy, given, given.rl_module_spec.model_config, given.learner_config_dict)
    without = Built(policy, made, module, made.learner_config_dict)
    expected, found = key.found(with_file), key.found(without)
    if key.name == "discount_s":
        expected = 1.0  # without an environment there are no deadlines that it could follow
    # How long a fragment of DDQN is follows from the number of environments.
    assert (found[0] == expected[0]) if key.name == "sample_env_steps" else (found == expected)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_an_algorithm_that_is_named_and_nothing_else_trains(name: str) -> None:
    alone = load_policy_config({"algorithm": {"name": name}})
    # The same with fewer processes: each takes seconds to start.
    few = load_policy_config({"algorithm": {"name": name}, "training": {"runners": int(name == "APPO")}})
    assert few.algorithm == alone.algorithm
    algorithm = algorithm_config(load_environment(small_environment()), few, cpus=2).build_algo()
    try:
        assert algorithm.train()["timesteps_total"] > 0
    finally:
        algorithm.stop()


def test_every_algorithm_of_the_schema_is_registered_with_tune() -> None:
    assert ALGORITHMS.keys() == {schema.__name__ for schema in SMALL}
    assert register_algorithms() == [f"Offload{name}" for name in ALGORITHMS]
    for name, algorithm in ALGORITHMS.items():
        assert get_trainable_cls(f"Offload{name}") is algorithm
        assert algorithm.__name__ == name
        assert algorithm.get_default_config().section in SMALL
        assert algorithm.get_default_config().default_section().name == name


def test_appo_samples_episodes_unless_rllibs_runner_is_asked_for() -> None:
    runner = Key("report_env_steps", 240, setting("env_runner_cls"))
    assert build(APPO, runner).rllib.env_runner_cls is EpisodesEnvRunner
    stock = runner._replace(beside={"training.env_runner": "stock"})
    assert build(APPO, stock).rllib.env_runner_cls is MultiAgentEnvRunner


def test_runners_that_run_no_connectors_are_not_asked_for_their_states() -> None:
    runner = Key("gamma", 0.77, setting("merge_env_runner_states"))
    stock = runner._replace(beside={"training.env_runner": "stock"})
    for schema, asked in itertools.product((PPO, A2C, DDQN, APPO), (False, True)):
        found = build(schema, stock if asked else runner).rllib.merge_env_runner_states
        assert found == ("training_only" if asked else False), schema
    assert ALGORITHMS["PPO"].get_default_config().merge_env_runner_states is False


def test_what_the_run_uses_is_tested_elsewhere() -> None:
    for key, (file, test) in OF_THE_RUN.items():
        assert f"def {test}(" in (Path(__file__).parent / file).read_text(encoding="utf-8"), key


def test_checkpoints_and_the_end_of_a_run_are_as_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = load_environment(small_environment())
    policy = load_policy_config(
        {"algorithm": {"name": "PPO"}, "training": {"env_steps": 320, "checkpoint_every": 3, "keep_checkpoints": 4}}
    )
    run = RunFolder.create(str(tmp_path / "run"), environment, policy, "run")
    made: dict[str, Any] = {}
    monkeypatch.setattr(training_module.tune, "Tuner", lambda *_, **how: made.update(how))
    cluster = Cluster((Node("id", "127.0.0.1", 4.0, 0.0, is_driver=True),))
    training_module._tuner(run, built(environment), policy, cluster, [], resume=False)
    assert made["run_config"].stop == {training_module.ENV_STEPS: 320}
    checkpoints = made["run_config"].checkpoint_config
    assert checkpoints.checkpoint_frequency == 3
    assert checkpoints.num_to_keep == 4
    assert checkpoints.checkpoint_at_end
