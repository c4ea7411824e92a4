"""A replay as an animated GIF, for pages and slides where no script runs: the same signs as the page, fewer of them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from offload_rllib.config import ConfigError
from offload_rllib.config.names import one_line
from offload_rllib.evaluation.interval_text import number
from offload_rllib.replay.page import spread
from offload_rllib.replay.record import Recording
from offload_rllib.replay.scores import running_score
from offload_rllib.replay.story import RESULT, Story
from offload_rllib.simulator.types import FINISHED, NONE, UNBOUNDED, Array

MOST_BYTES = 1_000_000
FRAMES, FRAME_MS, LAST_MS = 120, 100, 2500
FEWEST_FRAMES = 20
# A crossing of a link, or a drop, is shown in so many frames at least.
SHORTEST_FRAMES = 3
PANEL, TOP, BOTTOM, MARGIN, FINER = (430, 360), 74, 40, 34, 2  # pixels; drawn finer, then made smaller
COLOURS = 48
# Of M. Okabe and K. Ito, "Color universal design", 2008, as on the page.
INK, SOFT, LINE, BACK = "#1a1a1a", "#595959", "#b5b5b5", "#ffffff"
TASK, DONE, LEVEL, FULL, NODE = "#0072b2", "#009e73", "#56b4e9", "#d55e00", "#f2f2f2"
NAMED_NODES = 16


@dataclass(frozen=True)
class Moment:
    """The numbers above a network at one time."""

    mean_s: float
    """Mean score of the tasks that have ended and count; NaN before the first."""
    finished: int
    dropped: int
    at_nodes: Array
    """[N] tasks held, waiting or in service."""


class Film:
    """One policy's episode, to be drawn at any time."""

    def __init__(self, recording: Recording, story: Story) -> None:
        """Take what is drawn."""
        self.recording, self.story = recording, story
        self._curve = running_score(recording)
        log = recording.log
        self._finished_s = np.sort(log["ended_s"][log["outcome"] == FINISHED])
        self._dropped_s = np.sort(story.drops["time_s"])

    def at(self, time_s: float) -> Moment:
        """Return the numbers at a time, s."""
        times, means = self._curve
        ended = int(np.searchsorted(times, time_s, side="right"))
        stays = self.story.stays
        here = stays["node"][(stays["from_s"] <= time_s) & (stays["to_s"] > time_s)]
        return Moment(
            float(means[ended - 1]) if ended else math.nan,
            int(np.searchsorted(self._finished_s, time_s, side="right")),
            int(np.searchsorted(self._dropped_s, time_s, side="right")),
            np.bincount(here, minlength=len(self.recording.scenario.network.nodes)),
        )


class Animation:
    """The frames of an episode under one policy or two."""

    def __init__(self, recordings: Sequence[Recording], stories: Sequence[Story], title: str, until_s: float) -> None:
        """Take what is drawn.

        Args:
            recordings: of the same episode.
            stories: of the recordings.
            title: above all.
            until_s: the time of the last frame.
        """
        self.films = [Film(*each) for each in zip(recordings, stories, strict=True)]
        self.title, self.until_s = one_line(title), until_s
        self.size = (PANEL[0] * len(self.films), TOP + PANEL[1] + BOTTOM)
        network = recordings[0].scenario.network
        width, height = (length - 2 * MARGIN for length in PANEL)
        places = spread(network)
        places[:, 1] = 1 - places[:, 1]  # pictures count from the top
        self._places = places * (width, height) + (MARGIN, MARGIN)
        self._radius = min(20.0, 0.3 * width / math.sqrt(len(network.nodes)))
        self._fonts = {size: ImageFont.load_default(size * FINER) for size in (11, 13, 16)}

    def gif(self) -> bytes:
        """Return the animation; with fewer frames where it would be larger than 1 MB.

        Raises:
            ConfigError: it would be larger in any case.
        """
        frames = FRAMES
        while frames >= FEWEST_FRAMES:
            content = self._encoded(frames)
            if len(content) <= MOST_BYTES:
                return content
            frames = int(frames * 0.9 * MOST_BYTES / len(content))
        raise ConfigError(f"an animation of this network takes more than {MOST_BYTES / 1e6:g} MB; write a page instead")

    def _encoded(self, count: int) -> bytes:
        times = np.linspace(0.0, self.until_s, count)
        step_s = self.until_s / (count - 1)
        frames = [self.frame(float(time_s), step_s) for time_s in times]
        palette = frames[count // 2].quantize(COLOURS)
        small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        held = [FRAME_MS] * (count - 1) + [LAST_MS]
        file = io.BytesIO()
        small[0].save(file, "GIF", save_all=True, append_images=small[1:], duration=held, loop=0, optimize=True)
        return file.getvalue()

    def frame(self, time_s: float, step_s: float) -> Image.Image:
        """Return the picture at a time, s, where frames are so many seconds apart."""
        picture = Image.new("RGB", tuple(FINER * side for side in self.size), BACK)
        draw = ImageDraw.Draw(picture)
        self._text(draw, (12, 14), self.title, 13, SOFT)
        for i, film in enumerate(self.films):
            self._panel(draw, film, (i * PANEL[0], TOP), time_s, SHORTEST_FRAMES * step_s)
        self._clock(draw, time_s)
        return picture.resize(self.size, Image.Resampling.LANCZOS)

    def _panel(
        self, draw: ImageDraw.ImageDraw, film: Film, corner: tuple[int, int], time_s: float, least_s: float
    ) -> None:
        moment, places = film.at(time_s), self._places + corner
        self._text(draw, (corner[0] + 12, corner[1] - 36), one_line(film.recording.policy), 16, INK)
        score = f"mean score {number(moment.mean_s) or '-'} s"
        numbers = f"{score}   {moment.finished} finished   {moment.dropped} dropped"
        self._text(draw, (corner[0] + 12, corner[1] - 14), numbers, 13, INK)
        network = film.recording.scenario.network
        for a, b in network.links:
            draw.line([*self._fine(places[a]), *self._fine(places[b])], fill=LINE, width=FINER)
        self._legs(draw, film, places, time_s, least_s)
        capacity = film.recording.scenario.arrays.node["capacity"]
        for i, node in enumerate(network.nodes):
            self._node(draw, places[i], int(moment.at_nodes[i]), int(capacity[i]), client=node.client)
            if len(network.nodes) <= NAMED_NODES:
                below = (places[i][0], places[i][1] + self._radius + 8)
                self._text(draw, below, one_line(node.name), 11, SOFT, anchor="mm")
        self._drops(draw, film, places, time_s, least_s)

    def _legs(self, draw: ImageDraw.ImageDraw, film: Film, places: Array, time_s: float, least_s: float) -> None:
        legs, link = film.story.legs, film.recording.scenario.arrays.link
        takes = np.maximum(legs["to_s"] - legs["from_s"], least_s)
        share = (time_s - legs["from_s"]) / takes
        for leg, part in zip(legs[(share >= 0) & (share < 1)], share[(share >= 0) & (share < 1)], strict=True):
            begin, end = places[link["source"][leg["link"]]], places[link["destination"][leg["link"]]]
            x, y = self._fine(begin + part * (end - begin))
            size = 4 * FINER
            if leg["what"] == RESULT:
                draw.polygon([(x, y - size), (x + size, y), (x, y + size), (x - size, y)], fill=DONE)
            else:
                draw.ellipse([x - size, y - size, x + size, y + size], fill=TASK)

    def _node(self, draw: ImageDraw.ImageDraw, place: Array, tasks: int, capacity: int, *, client: bool) -> None:
        x, y = self._fine(place)
        r = self._radius * FINER
        box = [x - r, y - r, x + r, y + r]
        bounded = 0 < capacity < UNBOUNDED
        share = min(tasks / capacity, 1.0) if bounded else 0.0
        draw.ellipse(box, fill=FULL if bounded and share >= 1 else NODE)
        if 0 < share < 1:
            angle = math.degrees(math.acos(1 - 2 * share))
            draw.chord(box, 90 - angle, 90 + angle, fill=LEVEL)
        draw.ellipse(box, outline=INK, width=FINER * (3 if client else 1))
        if tasks:
            self._text(draw, tuple(place), str(tasks), 13, INK, anchor="mm")

    def _drops(self, draw: ImageDraw.ImageDraw, film: Film, places: Array, time_s: float, least_s: float) -> None:
        drops, link = film.story.drops, film.recording.scenario.arrays.link
        for drop in drops[(drops["time_s"] <= time_s) & (drops["time_s"] > time_s - least_s)]:
            if drop["node"] != NONE:
                place = places[drop["node"]] + (self._radius, -self._radius)
            else:
                place = (places[link["source"][drop["link"]]] + places[link["destination"][drop["link"]]]) / 2
            x, y = self._fine(place)
            size = 5 * FINER
            for way in (-1, 1):
                draw.line([x - size, y - way * size, x + size, y + way * size], fill=FULL, width=3 * FINER)

    def _clock(self, draw: ImageDraw.ImageDraw, time_s: float) -> None:
        left, right, y = 12, self.size[0] - 110, self.size[1] - 20
        for end, colour in ((right, LINE), (left + (right - left) * time_s / self.until_s, TASK)):
            draw.line([*self._fine((left, y)), *self._fine((end, y))], fill=colour, width=5 * FINER)
        self._text(draw, (self.size[0] - 12, y), f"{time_s:.0f} s", 13, INK, anchor="rm")

    def _fine(self, place: Sequence[float] | Array) -> tuple[float, float]:
        return float(place[0]) * FINER, float(place[1]) * FINER

    def _text(
        self,
        draw: ImageDraw.ImageDraw,
        place: Sequence[float],
        text: str,
        size: int,
        colour: str,
        *,
        anchor: str = "lm",
    ) -> None:
        draw.text(self._fine(place), text, fill=colour, font=self._fonts[size], anchor=anchor)
