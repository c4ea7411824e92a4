"""What the project promises: run with `pytest`."""

import numpy as np
from compare_rules import ENVIRONMENT, scores_of

import offload_rllib


def test_the_environment_is_sound() -> None:
    report = offload_rllib.check(ENVIRONMENT)
    assert report.passed, [result for result in report.results if result.outcome == "failed"]


def test_sending_tasks_away_is_worth_it() -> None:
    assert np.mean(scores_of("shortest_finish", 4)) < np.mean(scores_of("local", 4))
