"""A replay from names: of policies, and of an environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from offload_rllib.config import ConfigError, EnvironmentConfig, load_environment
from offload_rllib.config.files import written_at_once
from offload_rllib.evaluation.players import Contender, make_contenders
from offload_rllib.replay.animation import Animation
from offload_rllib.replay.page import Page
from offload_rllib.replay.record import record
from offload_rllib.replay.story import tell
from offload_rllib.runs.lookup import load_policy
from offload_rllib.scenario import build_scenario

GIF = ".gif"
MOST_NODES = 2000
MOST_POLICIES = 2


@dataclass(frozen=True)
class Replay:
    """A page that was written."""

    path: Path
    size_bytes: int
    shown_s: float
    """Up to when it shows the episode."""
    notes: tuple[str, ...]
    """What it does not show."""
    figures: dict[str, dict[str, float]]
    """Of the whole episode, by policy, as an evaluation reports them."""


def write_replay(
    path: str | Path,
    policies: Sequence[str | Path],
    env: str | Path | Mapping[str, Any] | EnvironmentConfig,
    *,
    overrides: Iterable[str] = (),
    seed: int = 0,
    episode: int = 0,
    until_s: float | None = None,
    force: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
) -> Replay:
    """Let one policy or two play a held-out episode, and write what happened as a page that moves, or as an animation.

    A trained policy takes its best actions.

    Args:
        path: of the page, `.html`; or of an animation, `.gif`, of at most 3 MB.
        policies: one or two, as `evaluate` takes them: heuristics, functions ``package.module:function``, folders of
            runs, checkpoints or policies, addresses of services.
        env: a preset's name, a path to a YAML file, a mapping, or a configuration.
        overrides: ``a.b=value`` texts.
        seed: of the held-out episodes.
        episode: which of them, from 0.
        until_s: show the episode up to this time; by default to its end. A page of more than 2 MB is cut earlier.
        force: overwrite a file that exists.
        trust: run Python code that a file of a run or of a policy names.
        progress: where to show it.

    Raises:
        ConfigError: invalid input; a policy does not fit the environment; more than 2,000 nodes; no task came.
        ServiceError: no service answers at an address.
    """
    path = Path(path)
    _check_path(path, force=force)
    contenders = _contenders([str(policy) for policy in policies], trust=trust)
    config = load_environment(env, overrides, trust=trust)
    if until_s is not None and not 0 < until_s <= config.horizon_s:
        raise ConfigError(f"--until {until_s:g}: accepted: above 0, up to horizon_s ({config.horizon_s:g} s)")
    scenario = build_scenario(config)
    count = len(scenario.network.nodes)
    if count > MOST_NODES:
        raise ConfigError(
            f"topology: {count:,} nodes, and a page shows at most {MOST_NODES:,} that can be distinguished; replay a "
            "smaller network of the same kind, and use `evaluate` or `compare` for the figures of this one"
        )
    shown = progress.track(contenders, description="playing") if progress else contenders
    recordings = [record(scenario, contender, seed=seed, episode=episode) for contender in shown]
    label = Path(env).stem if isinstance(env, str | Path) else "environment"
    stories = [tell(recording) for recording in recordings]
    about = f"{config.description or label}. Held-out episode {episode} of seed {seed}; the same arrivals for all."
    shown_s, notes = until_s or config.horizon_s, []
    if path.suffix.lower() == GIF:
        content = Animation(recordings, stories, f"{config.description or label}", shown_s).gif()
    else:
        title = f"{label}: {' and '.join(recording.policy for recording in recordings)}"
        text, shown_s, notes = Page(recordings, stories, title, about).fitting(shown_s)
        content = text.encode()
    with written_at_once(path) as partial:
        partial.write_bytes(content)
    figures = {recording.policy: recording.figures for recording in recordings}
    return Replay(path, len(content), shown_s, tuple(notes), figures)


def _check_path(path: Path, *, force: bool) -> None:
    if path.suffix.lower() not in (".html", ".htm", GIF):
        raise ConfigError(f"--out {path}: accepted endings: .html, .gif")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder")
    if path.is_dir() or (path.exists() and not force):
        raise ConfigError(f"{path}: exists and is not overwritten; choose another --out, or give --force")


def _contenders(names: Sequence[str], *, trust: bool) -> list[Contender]:
    if not 1 <= len(names) <= MOST_POLICIES:
        raise ConfigError(f"a replay shows 1 or 2 policies side by side; given: {len(names)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"'{names[0]}' is given twice; a replay shows two different policies")
    contenders = [contender for contender in make_contenders(names) if contender.deterministic]
    for place, contender in enumerate(contenders, 1):
        contender.policy = load_policy(contender.source, trust=trust)
        if sum(other.name == contender.name for other in contenders) > 1:
            contender.name += f" ({place})"
    return contenders
