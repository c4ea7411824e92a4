"""TensorBoard's HParams tab for a sweep: the keys of its space, and the metrics that matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial

# Made when imported, from a description of the format: pyright cannot see it.
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.hparams import summary_v2 as hp  # its `api` imports TensorFlow
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from offload_rllib.config.sweep import Domain
from offload_rllib.evaluation.metrics import COLUMNS
from offload_rllib.sweep.plan import SweepPlan, token_of
from offload_rllib.sweep.trial import VALIDATION
from offload_rllib.training.tensorboard_logger import TensorBoardLogger

SUFFIX = ".hparams"


def _write(folder: Path, summary: Any) -> None:
    """Write one summary into a folder, unless it has one already: a resumed sweep describes itself once."""
    if any(folder.glob(f"events.*{SUFFIX}")):
        return
    writer = EventFileWriter(str(folder), filename_suffix=SUFFIX)
    writer.add_event(Event(summary=summary))
    writer.close()


def _domain(domain: Domain) -> Any:
    if domain.choice is None:
        low, high = domain.bounds
        return hp.IntInterval(int(low), int(high)) if domain.whole else hp.RealInterval(float(low), float(high))
    tokens = [_number_or_text(option) for option in domain.choice]
    # A column holds values of one type.
    return hp.Discrete(tokens if len({type(token) for token in tokens}) == 1 else list(map(str, tokens)))


def _number_or_text(value: Any) -> bool | float | str:
    token = token_of(value)
    if isinstance(token, bool | str):
        return token
    return "null" if token is None else float(token)


def _shown(domain: Domain, value: Any) -> Any:
    token = _number_or_text(value)
    if domain.choice is not None and len({type(_number_or_text(option)) for option in domain.choice}) > 1:
        return str(token)
    return token


def write_experiment(folder: Path, plan: SweepPlan) -> None:
    """Describe a sweep for the HParams tab: its columns, its metrics, and those of the terminal's table."""
    hparams = [hp.HParam(key, _domain(domain)) for key, domain in plan.config.space.items()]
    names = dict.fromkeys([*(metric.name for metric in plan.config.metrics), *(metric.name for metric in COLUMNS)])
    metrics = [hp.Metric(f"ray/tune/{VALIDATION}/{name}", display_name=name) for name in names]
    _write(folder, hp.hparams_config_pb(hparams, metrics))


def write_trial(folder: Path, plan: SweepPlan, trial_name: str, values: dict[str, Any]) -> None:
    """Describe one trial: the values of the space's keys."""
    shown = {key: _shown(plan.config.space[key], value) for key, value in values.items()}
    _write(folder, hp.hparams_pb(shown, trial_id=trial_name))


class HParamsLogger(TensorBoardLogger):
    """The TensorBoard logger, with hyperparameters written when a trial begins and metrics chosen for them.

    Tune's own writes them when a trial ends, with every number of the result as a metric.
    """

    def __init__(self, plan: SweepPlan) -> None:
        """Log the trials of a plan."""
        super().__init__()
        self._plan = plan

    def log_trial_start(self, trial: Trial) -> None:
        """Write the hyperparameters."""
        super().log_trial_start(trial)
        name = trial.custom_dirname or trial.trial_id
        write_trial(Path(str(trial.local_path)), self._plan, name, self._plan.decoded(trial.config))

    def _try_log_hparams(self, trial: Trial, result: dict[str, Any]) -> None:
        """Leave out what Tune would write at the end of a trial."""
