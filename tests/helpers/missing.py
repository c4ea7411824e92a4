"""Programs and packages that a test needs, and a machine may lack."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def unavailable(message: str) -> NoReturn:
    """Skip the test with a message; where the tests are the last word (CI), fail."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
