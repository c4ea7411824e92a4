"""Samples from runners that may be slow, hang or be gone: late and lost ones are named, the others continue."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED

from offload_rllib.config.errors import ConfigError, input_problem
from offload_rllib.config.policy import Training

SAMPLE_ATTEMPTS = "sample_attempts"
DEFAULT_ATTEMPTS = Training().sample_attempts
# A runner that has not answered for so many timeouts hangs: it is ended, and Ray starts it again.
HANGING_TIMEOUTS = 3
# Between two looks whether a lost runner is back, while there is no other.
LOOK_AGAIN_S = 1.0


class NoSamplesError(RuntimeError):
    """No runner gave samples in time, again and again."""


def _sample(runner: Any) -> tuple[list[Any], dict[str, Any]]:
    return runner.sample(), runner.get_metrics()


def named(runners: Iterable[int]) -> str:
    """Return runners by their numbers: ``runner 3``, ``runners 1, 4``."""
    numbers = sorted(runners)
    return f"runner{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


@dataclass
class Round:
    """What one request to the runners gave."""

    samples: list[Any] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)

    @property
    def env_steps(self) -> int:
        """Environment steps in the samples."""
        return sum(int(metrics.get(NUM_ENV_STEPS_SAMPLED, 0)) for metrics in self.metrics)


class Sampler:
    """Asks all runners that answer for samples.

    A runner that does not answer within the timeout is *late*: it is not asked again until it has answered, and what it
    then gives is discarded, because it is from old weights. A runner whose process or node is gone is *lost* until Ray
    has started it again somewhere. Both are noted in `notices`.
    """

    def __init__(self, timeout_s: float, attempts: int = DEFAULT_ATTEMPTS) -> None:
        """Set how long to wait for samples, and how often in a row no runner may give any."""
        self.timeout_s = timeout_s
        self._attempts = attempts
        self._round = 0
        self._late: dict[int, tuple[str, float]] = {}
        self._lost: set[int] = set()
        self._reason = ""
        self.restarts = 0
        self._notices: list[str] = []

    @property
    def late(self) -> list[int]:
        """Numbers of the runners that have not answered in time."""
        return sorted(self._late)

    @property
    def lost(self) -> list[int]:
        """Numbers of the runners that are gone for now."""
        return sorted(self._lost)

    def take_notices(self) -> list[str]:
        """Return what there is to tell since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def note(self, notice: str) -> None:
        """Keep a sentence for the run's status."""
        self._notices.append(notice)

    def restored(self, runners: Iterable[int]) -> None:
        """Be notified that lost runners are back."""
        back = self._lost & set(runners)
        if back:
            self._lost -= back
            self.restarts += len(back)
            self.note(f"{named(back)}: back at work")

    def sample(self, group: EnvRunnerGroup, env_steps: int, restore: Any) -> Round:
        """Return at least so many environment steps, from as many rounds as it takes.

        Args:
            group: RLlib's runners; without remote ones the local one samples.
            env_steps: how many, of all runners together.
            restore: called without arguments when no runner answers; brings back runners that Ray has started again.

        Raises:
            NoSamplesError: no runner gave samples in any attempt.
            ConfigError: a runner found that the user's input is invalid.
        """
        gathered = Round()
        failed = 0
        while gathered.env_steps < env_steps:
            if group.num_remote_workers() <= 0:
                results = [_sample(group.local_env_runner)]
            else:
                began, round_before = time.monotonic(), self._round
                results = self._ask(group)
                if not results:
                    state = self._state(group)
                    back = self._wait(group, restore, until=began + self.timeout_s)
                    # There may have been no runner to ask: that counts as a failure only when the time is over.
                    if self._round > round_before or not back:
                        failed = self._failed(failed, state)
                    continue
            failed = 0
            for samples, metrics in results:
                gathered.samples.extend(samples)
                gathered.metrics.append(metrics)
        return gathered

    def _failed(self, failed: int, state: str) -> int:
        what = (
            f"no runner gave samples within {self.timeout_s:g} s: {state}"
            f"{f' (last error: {self._reason})' if self._reason else ''}"
        )
        if failed + 1 >= self._attempts:
            raise NoSamplesError(f"{what}, {self._attempts} times in a row; training.sample_timeout_s sets the time")
        self.note(f"{what}; attempt {failed + 1} of {self._attempts}")
        return failed + 1

    def _state(self, group: EnvRunnerGroup) -> str:
        parts = [f"{named(self._late)} late"] if self._late else []
        parts += [f"{named(self._lost)} lost"] if self._lost else []
        return ", ".join(parts) or f"all {group.num_remote_workers()} were asked"

    def _wait(self, group: EnvRunnerGroup, restore: Any, until: float) -> bool:
        """Wait until a runner is back, or the time is over; return whether one is."""
        while (left_s := until - time.monotonic()) > 0:
            self._collect_late(group)
            restore()
            asleep = set(self._late) | self._lost
            if set(group.healthy_env_runner_ids()) - asleep:
                return True
            time.sleep(min(LOOK_AGAIN_S, left_s))
        return False

    def _ask(self, group: EnvRunnerGroup) -> list[tuple[list[Any], dict[str, Any]]]:
        """Return what the runners that are neither late nor lost answer within the timeout."""
        # RLlib gives no public way to learn which runner failed, and why.
        manager: Any = group._worker_manager  # noqa: SLF001
        self._collect_late(group)
        asked = [i for i in manager.healthy_actor_ids() if i not in self._late]
        self._note_lost(set(manager.actor_ids()) - set(manager.healthy_actor_ids()))
        if not asked:
            return []
        self._round += 1
        tag = f"sample {self._round}"
        manager.foreach_actor_async(_sample, tag=tag, remote_actor_ids=asked)
        results = []
        answered: set[int] = set()
        for result in manager.fetch_ready_async_reqs(tags=[tag], timeout_seconds=self.timeout_s):
            answered.add(result.actor_id)
            if result.ok:
                results.append(result.get())
            else:
                self._reason = _last_line(result.get())
                _refuse_bad_input(result.get())
                self._note_lost({result.actor_id})
        silent = set(asked) - answered
        if silent:
            self.note(f"{named(silent)}: no samples within {self.timeout_s:g} s; continuing without")
            self._late |= dict.fromkeys(silent, (tag, time.monotonic()))
        return results

    def _note_lost(self, runners: set[int]) -> None:
        new = runners - self._lost
        if new:
            self._lost |= new
            for runner in new:
                self._late.pop(runner, None)
            why = f" ({self._reason})" if self._reason else ""
            self.note(f"{named(new)}: lost{why}; started again where there is room")

    def _collect_late(self, group: EnvRunnerGroup) -> None:
        """Find which late runners have answered meanwhile, and end those that hang."""
        if not self._late:
            return
        manager: Any = group._worker_manager  # noqa: SLF001 - as in `_ask`
        tags = sorted({tag for tag, _ in self._late.values()})
        for result in manager.fetch_ready_async_reqs(tags=tags, timeout_seconds=0.0):
            if self._late.pop(result.actor_id, None) is None:
                continue
            if result.ok:
                self.note(f"{named([result.actor_id])}: answers again")
            else:
                self._reason = _last_line(result.get())
                _refuse_bad_input(result.get())
                self._note_lost({result.actor_id})
        limit = time.monotonic() - HANGING_TIMEOUTS * self.timeout_s
        for runner, (_, since) in list(self._late.items()):
            if since < limit and runner in manager.actor_ids():
                self.note(f"{named([runner])}: hangs; ended, to be started again")
                del self._late[runner]
                self._lost.add(runner)
                manager.set_actor_state(runner, healthy=False)
                ray.kill(manager._actors[runner], no_restart=False)  # noqa: SLF001 - as in `_ask`


def _refuse_bad_input(error: Any) -> None:
    """Raise ConfigError if a runner failed for what the user gave: it would fail again."""
    problem = input_problem(error)
    if problem is not None:
        raise ConfigError(problem)


def _last_line(error: Any) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else type(error).__name__
