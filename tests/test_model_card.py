"""A run's card says what its policy is, how it did, and how to load it, by code that works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.environments import make_env, small_environment
from helpers.policies import PPO, kept

from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.interval_text import with_half_width
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.reporting.report import write_report
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.training.model_card import write_model_card


@pytest.mark.parametrize("when", ["arrival", "interval"])
def test_the_card_of_a_run(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = load_environment(small_environment(description="a ring | of four", decisions={"when": when}))
    run = RunFolder.create("./ring", environment, load_policy_config(PPO | {"training": {"seed": 7}}), "")
    with pytest.raises(ConfigError, match=r"no policy here"):
        write_model_card(run)
    assert not (run.path / "MODEL_CARD.md").exists()
    kept(run.path / "policy", make_env(small_environment()), "per_node", environment="0123456789ab", env_steps=12_345)
    text = write_model_card(run).read_text()
    for part in ("# ring", "`0123456789ab`", "12,345", "| seed | 7 |", "a ring &#124; of four", "numpy 2."):
        assert part in text, part
    assert "per_node: `a`, `b`, `c`, `d`, for 4 agents" in text
    assert "Not evaluated yet" in text

    contenders = make_contenders([str(run.path), "local"])
    evaluation = evaluate(environment, contenders, episodes=2)
    write_report(evaluation, "ring", run.path / "evaluation", "")
    text = write_model_card(run).read_text()
    assert "Not evaluated yet" not in text
    for policy in ("ring", "ring (sampled)", "local"):
        # The same numbers, and the same half of the interval, as in tables.
        score = with_half_width(evaluation.mean(policy, "score_mean_s"))
        assert f"| {policy} | {score} |" in text, policy

    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    exec(code.group(1), {})  # noqa: S102 - the promise is that this code works
