"""Trainings that begin in the same second write their logs and states to folders of their own.

Tune's driver writes both to a folder of the Ray session, and copies that folder to the experiment's. It names it by the
second and the experiment's name, which is `tune` in every run. Runs that begin together would share the folder: each
would get the rows of both, and could not be resumed.
"""

from __future__ import annotations

import uuid
from typing import Any

from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Experiment


class OwnStaging(StorageContext):
    """Tune's storage of an experiment, which no other one shares."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Add to the second what no other experiment adds."""
        super().__init__(*args, **kwargs)
        self._timestamp = f"{self._timestamp}-{uuid.uuid4().hex[:8]}"


def stage_apart() -> None:
    """Let Tune use `OwnStaging` in this process from now on."""
    Experiment._storage_context_cls = OwnStaging  # noqa: SLF001 - there is no other way to choose it
