"""Training seeds: as a schema takes them, and as the command line gives them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from offload_rllib.config.errors import ConfigError

ACCEPTED = "a number of seeds (5: 0 to 4), FIRST:END (0:5: the same), or a list (0,3,7), each seed once"
MOST_SEEDS = 1000
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]


def _listed(value: Any) -> Any:
    """Return the seeds that a number of them stands for."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_SEEDS:
        return tuple(range(value))
    return value


def _each_once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"training seeds {', '.join(map(str, seeds))}: one is given twice")
    return seeds


Seeds = Annotated[
    tuple[Seed, ...],
    Field(min_length=1, max_length=MOST_SEEDS),
    BeforeValidator(_listed),
    AfterValidator(_each_once),
]
"""Training seeds; a number n stands for 0 to n - 1."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the training seeds of ``5``, ``0:5`` (without 5) or ``0,3,7``.

    Raises:
        ConfigError: it is something else.
    """
    found: tuple[int, ...] = ()
    if re.fullmatch(r"\d{1,10}", text):
        found = tuple(range(min(int(text), MOST_SEEDS + 1)))
    elif re.fullmatch(r"\d{1,10}:\d{1,10}", text):
        first, end = map(int, text.split(":"))
        found = tuple(range(first, min(end, first + MOST_SEEDS + 1)))
    elif re.fullmatch(r"\d{1,10}(,\d{1,10})+", text):
        found = tuple(map(int, text.split(",")))
    if not 1 <= len(found) <= MOST_SEEDS or len(set(found)) < len(found) or max(found) >= 2**31:
        raise ConfigError(f"--seeds '{text}': accepted: {ACCEPTED}; at most {MOST_SEEDS}, below 2^31")
    return found
