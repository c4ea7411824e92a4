"""`training.start_from` and `imitate`: a run's first weights, kept in its folder and fitted to what is trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from offload_rllib.algorithms.registry import ALGORITHMS
from offload_rllib.config import ConfigError, PolicyConfig
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.envs.vector import NativeEnv, batch_of
from offload_rllib.policies.sharing import Assignment
from offload_rllib.policies.warm_start import Target, WarmStart, source_files, warm_start
from offload_rllib.runs.lookup import trained_policy_folder
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.scenario import build_scenario
from offload_rllib.training.imitation import imitate

# In the folder of a run: it may be resumed when its source is gone, or was trained on.
START = "start"


def source_folder(start_from: str) -> Path:
    """Return the folder with the policies that `training.start_from` names.

    Raises:
        ConfigError: there are none.
    """
    try:
        return trained_policy_folder(Path(start_from))
    except ConfigError as error:
        raise ConfigError(
            f"training.start_from: {error}. Accepted: the folder of a run, a checkpoint, or a saved policy"
        ) from error


def keep_source(run: RunFolder, env: NativeEnv | None = None) -> Path | None:
    """Put the policies that a run starts from into its folder, unless they are there; return where, or None.

    With `training.imitate.start: false` they are kept there as well, and the run starts with random weights.

    Args:
        run: the folder.
        env: its environment, if it is built; a rule is cloned in it.
    """
    policy = run.policy_config
    start_from = policy.training.start_from
    if start_from is None and policy.training.imitate is None:
        return None
    kept, partial = run.path / START, run.path / f"{START}.partial"
    if not kept.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        if start_from is None:
            run.record(imitated=imitate(partial, policy, env or batch_of(build_scenario(run.environment), 1)))
        else:
            for name, content in source_files(source_folder(start_from)).items():
                (partial / name).write_bytes(content)
        partial.replace(kept)
    return kept if start_from is not None or policy.training.starts_with_clone else None


def starting_weights(
    folder: Path, policy: PolicyConfig, env: NativeEnv, assignment: Assignment, module: RLModuleSpec
) -> WarmStart:
    """Return the weights that a training starts with; errors as `policies.warm_start.warm_start`.

    Args:
        folder: with the policies of the source.
        policy: how is trained.
        env: where.
        assignment: of policies to agents.
        module: of every policy.
    """
    spec = RLModuleSpec(
        module_class=module.module_class,
        observation_space=observation_space(env),
        action_space=action_space(env),
        model_config=module.model_config,
    )
    with torch.device("meta"):  # sizes alone
        built: Any = spec.build()  # a torch module, which RLlib's type does not say
    shapes = {name: tuple(value.shape) for name, value in built.state_dict().items()}
    algorithm = ALGORITHMS[policy.algorithm.name]
    target = Target(
        output="values" if policy.algorithm.name == "DDQN" else "logits",
        network=policy.network,
        dueling=getattr(policy.algorithm, "dueling", False),
        assignment=assignment,
        prefix=algorithm.policy_prefix,
        shapes=shapes,
    )
    return warm_start(folder, env, target)
