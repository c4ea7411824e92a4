"""Code of the user's that a policy file names: a module, an implementation, callbacks, metrics."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, small_environment
from helpers.policies import policy_config

from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.policies.saved import POLICY_FOLDER, load_saved_policy
from offload_rllib.rollout.callbacks import OffloadCallback
from offload_rllib.training.rllib_config import algorithm_config

CODE = '''
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.columns import Columns
from torch import nn

from offload_rllib.algorithms.ppo import OffloadPPOConfig, PPOLearner
from offload_rllib.policies.module import MaskedActorCritic
from offload_rllib.policies.network import INVALID_LOGIT
from offload_rllib.rollout.callbacks import OffloadCallback


class Linear(nn.Module):
    def __init__(self, size, actions):
        super().__init__()
        self.scores = nn.Linear(size, actions)

    def forward(self, observations, masks):
        return self.scores(observations).masked_fill(masks == 0, INVALID_LOGIT)


class LinearModule(MaskedActorCritic):
    """Has no attribute `critic`."""

    @classmethod
    def make_network(cls, observation_size, actions, **shape):
        return Linear(observation_size, actions)

    def setup(self):
        super().setup()
        del self.critic
        size, _ = self._sizes()
        self.baseline = nn.Linear(size, 1)

    def compute_values(self, batch, embeddings=None):
        return self.baseline(batch[Columns.OBS]["observations"]).squeeze(-1)


class QuietLearner(PPOLearner):
    """Learns nothing."""

    def compute_loss_for_module(self, **arguments):
        return 0.0 * super().compute_loss_for_module(**arguments)


class QuietConfig(OffloadPPOConfig):
    def get_default_learner_class(self):
        return QuietLearner


class Counts(RLlibCallback):
    def on_episode_end(self, *, episode, metrics_logger, **kwargs):
        metrics_logger.log_value("ended", 1, reduce="sum")


class Doubled(OffloadCallback):
    pass


def twice_the_score(figures):
    return 2 * figures["score_mean_s"]
'''


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the module `own_code` into the working folder."""
    (tmp_path / "own_code.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_code", None)


def build(**parts: dict[str, Any]) -> Any:
    """Return PPO's algorithm with some keys of its policy file set."""
    content = policy_config().model_dump(mode="json", by_alias=True)
    for part, keys in parts.items():
        content[part] |= keys
    return algorithm_config(load_environment(small_environment()), load_policy_config(content), cpus=2).build_algo()


@pytest.mark.usefixtures("code", "ray_session")
def test_a_module_of_ones_own_is_named_trained_kept_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = build(network={"module": "own_code:LinearModule"})
    before = {key: np.array(value) for key, value in algorithm.get_module("shared").get_state().items()}
    algorithm.train()
    after = algorithm.get_module("shared").get_state()
    assert set(after) == {"actor.scores.weight", "actor.scores.bias", "baseline.weight", "baseline.bias"}
    assert all((before[key] != np.asarray(after[key])).any() for key in before)
    algorithm.save_checkpoint(str(tmp_path / "checkpoint"))
    algorithm.stop()
    folder = tmp_path / "checkpoint" / POLICY_FOLDER
    with pytest.raises(ConfigError, match=r"network.module: names Python code \(own_code:LinearModule\).*TRUST=1"):
        load_saved_policy(folder)
    policy = load_saved_policy(folder, trust=True)
    env = make_env(small_environment(), 3)
    actions = policy.on(env)(env.observations, env.masks)
    weights, bias = np.asarray(after["actor.scores.weight"]), np.asarray(after["actor.scores.bias"])
    expected = np.where(env.masks == 1, env.observations @ weights.T + bias, -np.inf).argmax(-1)
    assert (actions == expected).all()
    monkeypatch.setenv("OFFLOAD_RLLIB_TRUST", "1")
    assert load_saved_policy(folder).description.network.module == "own_code:LinearModule"


@pytest.mark.usefixtures("code", "ray_session")
def test_an_implementation_callbacks_and_metrics_of_ones_own_are_used() -> None:
    algorithm = build(
        algorithm={"implementation": "own_code:QuietConfig", "lr": 0.01},
        training={"callbacks": ["own_code:Counts"], "metrics": {"twice": "own_code:twice_the_score"}},
    )
    before = {key: np.array(value) for key, value in algorithm.get_module("shared").get_state().items()}
    assert algorithm.config.lr == 0.01
    result = algorithm.train()["env_runners"]
    after = algorithm.get_module("shared").get_state()
    algorithm.stop()
    assert all((before[key] == np.asarray(after[key])).all() for key in before), "its learner learns nothing"
    assert result["ended"] == result["num_episodes"] > 0
    assert result["offload"]["twice"] == pytest.approx(2 * result["offload"]["score_mean_s"], rel=1e-6)


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(
    ("part", "keys", "message"),
    [
        (
            "network",
            {"module": "own_code:Linear"},
            r"network.module: own_code:Linear must be a subclass of",
        ),
        ("network", {"module": "own_code:Missing"}, r"network.module: .*has no function 'Missing'"),
        ("network", {"module": "own code"}, r"network.module: .*pattern"),
        (
            "algorithm",
            {"implementation": "own_code:Counts"},
            r"algorithm.implementation: .*of .*OffloadPPOConfig",
        ),
        ("training", {"callbacks": ["own_code:Linear"]}, r"training.callbacks: .*subclass of .*RLlibCallback"),
        ("training", {"metrics": {"late_share": "own_code:twice_the_score"}}, r"metrics.late_share: .*logged anyway"),
        ("training", {"metrics": {"x": "nowhere:f"}}, r"training.metrics.x: nowhere:f: importing nowhere failed"),
    ],
)
def test_code_that_does_not_fit_is_refused(part: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**{part: keys})


@pytest.mark.usefixtures("code")
def test_a_callback_that_derives_from_ours_stands_in_for_it() -> None:
    content = policy_config().model_dump(mode="json", by_alias=True)
    content["training"]["callbacks"] = ["own_code:Doubled"]
    config = algorithm_config(load_environment(small_environment()), load_policy_config(content), cpus=2)
    callbacks: Any = config.callbacks_class
    assert [callback.__name__ for callback in callbacks] == ["Doubled"]
    assert issubclass(callbacks[0], OffloadCallback)
