"""The replay of a run's latest checkpoint beside the best rule, played when the page asks for it."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from offload_rllib.config.loading import load_environment
from offload_rllib.replay.write import write_replay
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.watching.data import rules_of


class LatestReplay:
    """Plays one held-out episode of the latest checkpoint, once for each checkpoint."""

    def __init__(self, run: Path) -> None:
        """Play nothing yet.

        Args:
            run: folder of a run.
        """
        self.run = run
        self._lock = threading.Lock()
        self._played: tuple[Path, float, str, bytes] | None = None

    def page(self) -> bytes:
        """Return the page.

        Raises:
            ConfigError: nothing was saved yet, or the policy names Python code, which is not run from here.
        """
        policy = RunFolder.open(self.run).policy_folder()
        saved, rule = policy.stat().st_mtime, rules_of(self.run)[0]
        with self._lock:
            if self._played is None or self._played[:3] != (policy, saved, rule):
                self._played = (policy, saved, rule, self._play(policy, rule))
            return self._played[3]

    def _play(self, policy: Path, rule: str) -> bytes:
        config = load_environment(self.run / "environment.yaml")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "replay.html"
            write_replay(path, [policy, rule], config)
            return path.read_bytes()
