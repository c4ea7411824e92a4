"""Work in parts, so many of Ray's tasks at a time; with its results kept, it can be stopped and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray

Part = TypeVar("Part")


@contextmanager
def in_parallel(
    start: Callable[[Part], Any], parts: Iterable[Part], at_once: int
) -> Iterator[Iterator[tuple[Part, Any]]]:
    """Do parts in the order given, and give each with its result as it ends.

    Tasks that still run at the end of the block, after an error or Ctrl-C, are cancelled.

    Args:
        start: begins a part; returns Ray's reference to its result.
        parts: what is left to do.
        at_once: largest number of tasks at a time.
    """
    running: dict[Any, Part] = {}
    try:
        yield _results(start, iter(parts), at_once, running)
    finally:
        for task in running:
            ray.cancel(task, force=True)


def _results(
    start: Callable[[Part], Any], parts: Iterator[Part], at_once: int, running: dict[Any, Part]
) -> Iterator[tuple[Part, Any]]:
    for part in parts:
        running[start(part)] = part
        if len(running) >= at_once:
            yield _first(running)
    while running:
        yield _first(running)


def _first(running: dict[Any, Part]) -> tuple[Part, Any]:
    (done,), _ = ray.wait(list(running), num_returns=1)
    return running.pop(done), ray.get(done)
