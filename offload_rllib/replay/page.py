"""A replay as one HTML file that needs nothing else: data as whole numbers, drawn by the script in `page/`."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.config.names import one_line
from offload_rllib.evaluation.interval_text import number
from offload_rllib.evaluation.metrics import SCORE, chosen, metric_of
from offload_rllib.replay.places import Places
from offload_rllib.replay.record import Recording
from offload_rllib.replay.scores import running_score
from offload_rllib.replay.story import Story
from offload_rllib.simulator.types import FINISHED, UNBOUNDED, Array

MOST_BYTES = 2_000_000
MOST_POINTS = 1500  # of a curve: more than a screen has columns
PLACES = 1000  # in each direction
# A page that is too long is shortened to this part of what would fit, and tried again.
MARGIN = 0.95


class Page:
    """The page of one episode under one policy or two."""

    def __init__(self, recordings: Sequence[Recording], stories: Sequence[Story], title: str, about: str) -> None:
        """Take what is shown.

        Args:
            recordings: of the same episode.
            stories: of the recordings.
            title: of the page.
            about: a line below it.

        Raises:
            ConfigError: the recordings differ in their arrivals, or a log is not that of the whole episode.
        """
        first = recordings[0]
        for other in recordings[1:]:
            for key in ("created_s", "deadline_s", "work", "origin"):
                if not np.array_equal(first.log[key], other.log[key]):
                    raise ConfigError(f"'{first.policy}' and '{other.policy}' did not play the same episode: {key}")
        self.recordings, self.stories = recordings, stories
        self.title, self.about = one_line(title), one_line(about)
        self.horizon_s = float(first.scenario.arrays.settings[0]["horizon_s"])
        self._curves = [running_score(recording) for recording in recordings]
        self._places = Places(first)
        self._network = _network_columns(first, self._places.still)

    def fitting(self, until_s: float) -> tuple[str, float, list[str]]:
        """Return the page, up to which time it shows the episode, and its notes.

        Args:
            until_s: show no more than this.

        Raises:
            ConfigError: not even the network fits.
        """
        asked_s = until_s
        while True:
            notes = self._notes(until_s, asked_s)
            text = self.render(until_s, notes)
            size = len(text.encode())
            if size <= MOST_BYTES:
                return text, until_s, notes
            empty = len(self.render(0.0, notes).encode())
            if empty >= MARGIN * MOST_BYTES:
                raise ConfigError(
                    f"the network alone takes {empty / 1e6:.1f} MB, and a page has at most {MOST_BYTES / 1e6:g}; "
                    "take a smaller network"
                )
            until_s *= MARGIN * (MOST_BYTES - empty) / (size - empty)
            until_s = float(f"{until_s:.3g}")

    def _notes(self, until_s: float, asked_s: float) -> list[str]:
        notes = []
        if until_s < asked_s:
            notes.append(
                f"Only the first {until_s:g} s of the {self.horizon_s:g} s are shown: more would take more than "
                f"{MOST_BYTES / 1e6:g} MB. The table at the end is of the whole episode."
            )
        elif until_s < self.horizon_s:
            notes.append(
                f"The first {until_s:g} s of {self.horizon_s:g} s, as asked for. The table at the end is of the whole "
                "episode."
            )
        guessed = sum(story.guessed for story in self.stories)
        if guessed:
            notes.append(f"The way of {guessed} tasks is known at its ends alone; they are shown on a shortest path.")
        return notes

    def render(self, until_s: float, notes: Sequence[str]) -> str:
        """Return the page that shows the episode up to a time."""
        parts = resources.files("offload_rllib.replay") / "page"
        fill = {
            "TITLE": html.escape(self.title),
            "STYLE": (parts / "replay.css").read_text(encoding="utf-8"),
            "SCRIPT": (parts / "replay.js").read_text(encoding="utf-8"),
            "DATA": as_json(self.data(until_s, notes)),
        }
        page = (parts / "replay.html").read_text(encoding="utf-8")
        return re.sub("@@([A-Z]+)@@", lambda found: fill[found[1]], page)

    def data(self, until_s: float, notes: Sequence[str]) -> dict[str, Any]:
        """Return what the script of the page reads."""
        whole = until_s >= self.horizon_s
        first = self.recordings[0]
        log, settings = first.log, first.scenario.arrays.settings[0]
        unit_s = 10.0 ** (math.floor(math.log10(max(until_s, 1e-9))) - 6)
        count = len(log) if whole else int(np.searchsorted(log["created_s"], until_s))
        made = _whole(log["created_s"][:count], unit_s)
        relative = _whole(log["deadline_s"][:count], unit_s) - made
        return {
            "title": self.title,
            "about": self.about,
            "notes": list(notes),
            "unit_s": unit_s,
            "shown_s": until_s,
            "whole": whole,
            "score_from_s": float(settings["score_from_s"]),
            "score_until_s": min(float(settings["score_until_s"]), self.horizon_s),
            **self._network,
            "tracks": self._places.columns(until_s, unit_s, PLACES),
            "tasks": {
                "created": _steps(made),
                "deadline": np.where(np.isfinite(log["deadline_s"][:count]), relative, -1).tolist(),
            },
            "policies": [
                self._policy(*each, until_s=until_s if not whole else math.inf, unit_s=unit_s, made=made)
                for each in zip(self.recordings, self.stories, self._curves, strict=True)
            ],
            "final": self._final(),
        }

    def _policy(
        self,
        recording: Recording,
        story: Story,
        curve: tuple[Array, Array],
        *,
        until_s: float,
        unit_s: float,
        made: Any,
    ) -> dict[str, Any]:
        legs = story.legs[(story.legs["task"] < len(made)) & (story.legs["from_s"] < until_s)]
        stays = story.stays[(story.stays["task"] < len(made)) & (story.stays["from_s"] < until_s)]
        drops = story.drops[(story.drops["task"] < len(made)) & (story.drops["time_s"] <= until_s)]
        drops = drops[np.argsort(drops["time_s"], kind="stable")]
        ended_s = recording.log["ended_s"][recording.log["outcome"] == FINISHED]
        times, means = curve
        kept = np.unique(np.linspace(0, len(times) - 1, min(len(times), MOST_POINTS)).astype(int))
        kept = kept[times[kept] <= until_s]
        served = stays["served_s"]
        begun = np.isfinite(served)
        return {
            "name": recording.policy,
            "legs": _spans(legs, unit_s, made) | {"link": legs["link"].tolist(), "what": legs["what"].tolist()},
            "stays": _spans(stays, unit_s, made)
            | {
                "node": stays["node"].tolist(),
                "served": np.where(begun, _whole(served, unit_s) - made[stays["task"]], -1).tolist(),
            },
            "drops": {key: drops[key].tolist() for key in ("task", "cause", "node", "link")}
            | {"time": _whole(drops["time_s"], unit_s).tolist()},
            "finished": _whole(np.sort(ended_s[ended_s <= until_s]), unit_s).tolist(),
            "outages": [
                [node, down, round(time_s / unit_s)]
                for node, down, time_s in recording.outages.tolist()
                if time_s <= until_s
            ],
            "score": {
                "time": _whole(times[kept], unit_s).tolist(),
                "mean": [float(f"{mean:.5g}") for mean in means[kept].tolist()],
                "most": float(f"{means[kept].max() if len(kept) else 0.0:.5g}"),
            },
            # Not the rounded mean of the curve: the figure that an evaluation prints.
            "final_score": number(recording.figures[SCORE]),
        }

    def _final(self) -> list[list[str]]:
        rows = []
        for name in chosen((), self.recordings[0].figures):
            metric = metric_of(name)
            texts = [number(recording.figures[name] * metric.factor) for recording in self.recordings]
            if any(texts):
                rows.append([metric.label, *texts])
        return rows


def as_json(content: Any) -> str:
    """Return JSON that can stand in a script element: no text in it can end the element, or begin a comment."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _whole(seconds: Array, unit_s: float) -> Array:
    """Return times in whole units, 0 where they are infinite."""
    return np.rint(np.where(np.isfinite(seconds), seconds, 0.0) / unit_s).astype(np.int64)


def _steps(ascending: Array) -> list[int]:
    return np.diff(ascending, prepend=0).tolist()


def _spans(records: Array, unit_s: float, made: Array) -> dict[str, list[int]]:
    """Return the columns of what has a task, a beginning and an end."""
    begin = _whole(records["from_s"], unit_s)
    return {
        "task": _steps(records["task"]),
        "from": (begin - made[records["task"]]).tolist(),
        "takes": (_whole(records["to_s"], unit_s) - begin).tolist(),
    }


def _network_columns(recording: Recording, places: Array) -> dict[str, Any]:
    network, arrays = recording.scenario.network, recording.scenario.arrays
    places = np.rint(PLACES * places).astype(int)
    capacity = arrays.node["capacity"]
    return {
        "nodes": {
            "name": [one_line(node.name) for node in network.nodes],
            "type": [one_line(node.type) for node in network.nodes],
            "x": places[:, 0].tolist(),
            "y": places[:, 1].tolist(),
            "speed": [f"{node.speed:.4g}" for node in network.nodes],
            "capacity": np.where(capacity < UNBOUNDED, capacity, 0).tolist(),
            "client": [int(node.client) for node in network.nodes],
        },
        "edges": [list(pair) for pair in network.links],
        "links": {end: arrays.link[end].tolist() for end in ("source", "destination")},
    }
