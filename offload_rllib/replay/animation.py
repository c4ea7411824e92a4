"""A replay as an animated GIF, for pages and slides where no script runs: the same signs as the page, fewer of them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from offload_rllib.config import ConfigError
from offload_rllib.config.names import one_line
from offload_rllib.evaluation.interval_text import number
from offload_rllib.replay.places import Places, is_linked
from offload_rllib.replay.record import Recording
from offload_rllib.replay.scores import running_score
from offload_rllib.replay.story import RESULT, Story
from offload_rllib.simulator.types import FINISHED, NONE, UNBOUNDED, Array

# With fewer frames an animation is no larger than the first; with the fewest, no larger than the second.
MOST_BYTES, LARGEST_BYTES = 1_000_000, 3_000_000
FRAMES, FRAME_MS, LAST_MS = 120, 100, 2500
FEWEST_FRAMES = 20
# A crossing of a link, or a drop, is shown in so many frames at least.
SHORTEST_FRAMES = 3
PANEL, TOP, BOTTOM, MARGIN, FINER = (430, 360), 74, 128, 34, 2  # pixels; drawn finer, then made smaller
CURVES, GROUND = 76, 40  # height of the running scores, and what is below them
# Of M. Okabe and K. Ito, "Color universal design", 2008, as on the page.
INK, SOFT, LINE, BACK = "#1a1a1a", "#595959", "#b5b5b5", "#ffffff"
TASK, DONE, LEVEL, FULL, NODE = "#0072b2", "#009e73", "#56b4e9", "#d55e00", "#f2f2f2"
OF_POLICY = (TASK, FULL)
NAMED_NODES = 16
SMALLEST_NUMBERED = 7.0  # radius of a node, pixels, that a number fits into
MOST_POINTS = 600  # of a curve
# Rims are drawn softly: each colour is mixed with those behind it, in so many parts.
SOFTER = np.array([1.0, 0.8, 0.6, 0.4, 0.2])


def palette() -> Image.Image:
    """Return the colours of all frames: one palette for all, so that what is rare has its colour, too."""
    rgb = np.array([ImageColor.getrgb(colour) for colour in (INK, SOFT, LINE, TASK, DONE, LEVEL, FULL, NODE)])
    behind = np.array([ImageColor.getrgb(colour) for colour in (BACK, LEVEL)])
    mixed = SOFTER[:, None, None, None] * rgb + (1 - SOFTER[:, None, None, None]) * behind[:, None]
    colours = np.unique(np.rint([*behind, *mixed.reshape(-1, 3)]).astype(int), axis=0)
    image = Image.new("P", (1, 1))
    image.putpalette(colours.ravel().tolist())
    return image


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

    def curve(self, until_s: float) -> tuple[Array, Array]:
        """Return times, s, and the running mean score at them, up to a time; of many a part."""
        times, means = self._curve
        kept = np.unique(np.linspace(0, len(times) - 1, min(len(times), MOST_POINTS)).astype(int))
        kept = kept[times[kept] <= until_s]
        return times[kept], means[kept]

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
        self._places, self._area = Places(recordings[0]), (width, height)
        self._radius = min(20.0, 0.3 * width / math.sqrt(len(network.nodes)))
        # Size of tasks and drops: in large networks smaller than the nodes.
        self._sign = min(4.0, max(1.5, 0.4 * self._radius))
        self._fonts = {size: ImageFont.load_default(size * FINER) for size in (11, 13, 16)}

    def gif(self) -> bytes:
        """Return the animation; with fewer frames where it would be larger than 1 MB.

        Raises:
            ConfigError: it would be larger than 3 MB with the fewest.
        """
        frames = FRAMES
        while True:
            content = self._encoded(frames)
            if len(content) <= (MOST_BYTES if frames > FEWEST_FRAMES else LARGEST_BYTES):
                return content
            if frames == FEWEST_FRAMES:
                raise ConfigError(
                    f"an animation of this network takes more than {LARGEST_BYTES / 1e6:g} MB; write a page instead"
                )
            frames = max(int(frames * 0.9 * MOST_BYTES / len(content)), FEWEST_FRAMES)

    def _encoded(self, count: int) -> bytes:
        times = np.linspace(0.0, self.until_s, count)
        step_s = self.until_s / (count - 1)
        frames = [self.frame(float(time_s), step_s) for time_s in times]
        colours = palette()
        small = [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]
        held = [FRAME_MS] * (count - 1) + [LAST_MS]
        file = io.BytesIO()
        small[0].save(file, "GIF", save_all=True, append_images=small[1:], duration=held, loop=0, optimize=True)
        return file.getvalue()

    def frame(self, time_s: float, step_s: float) -> Image.Image:
        """Return the picture at a time, s, where frames are so many seconds apart."""
        picture = Image.new("RGB", (FINER * self.size[0], FINER * self.size[1]), BACK)
        draw = ImageDraw.Draw(picture)
        self._text(draw, (12, 14), self.title, 13, SOFT)
        for i, film in enumerate(self.films):
            self._panel(draw, film, (i * PANEL[0], TOP), time_s, SHORTEST_FRAMES * step_s)
            sign = [*self._fine((i * PANEL[0] + 12, TOP - 43)), *self._fine((i * PANEL[0] + 24, TOP - 31))]
            draw.rectangle(sign, fill=OF_POLICY[i])
        self._scores(draw, time_s)
        self._clock(draw, time_s)
        return picture.resize(self.size, Image.Resampling.LANCZOS)

    def _panel(
        self, draw: ImageDraw.ImageDraw, film: Film, corner: tuple[int, int], time_s: float, least_s: float
    ) -> None:
        moment = film.at(time_s)
        places, access = self._places.at(time_s)
        places[:, 1] = 1 - places[:, 1]  # pictures count from the top
        places = places * self._area + (MARGIN, MARGIN) + corner
        self._text(draw, (corner[0] + 30, corner[1] - 36), one_line(film.recording.policy), 16, INK)
        score = f"mean score {number(moment.mean_s) or '-'} s"
        numbers = f"{score}   {moment.finished} finished   {moment.dropped} dropped"
        self._text(draw, (corner[0] + 12, corner[1] - 14), numbers, 13, INK)
        network = film.recording.scenario.network
        for a, b in network.links:
            if not is_linked(a, b, access):
                continue
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
            size = self._sign * FINER
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
            # Below the level: `ImageDraw.chord` of Pillow 13 also fills a bar beside the circle.
            half = math.acos(1 - 2 * share)
            rim = np.linspace(math.pi / 2 - half, math.pi / 2 + half, 33)
            draw.polygon(list(zip(x + r * np.cos(rim), y + r * np.sin(rim), strict=True)), fill=LEVEL)
        draw.ellipse(box, outline=INK, width=FINER * (3 if client else 1))
        if tasks and self._radius >= SMALLEST_NUMBERED:
            self._text(draw, tuple(place), str(tasks), 13, INK, anchor="mm")

    def _drops(self, draw: ImageDraw.ImageDraw, film: Film, places: Array, time_s: float, least_s: float) -> None:
        drops, link = film.story.drops, film.recording.scenario.arrays.link
        for drop in drops[(drops["time_s"] <= time_s) & (drops["time_s"] > time_s - least_s)]:
            if drop["node"] != NONE:
                place = places[drop["node"]] + (self._radius, -self._radius)
            else:
                place = (places[link["source"][drop["link"]]] + places[link["destination"][drop["link"]]]) / 2
            x, y = self._fine(place)
            size = 1.25 * self._sign * FINER
            width = round(0.75 * self._sign * FINER)
            for way in (-1, 1):
                draw.line([x - size, y - way * size, x + size, y + way * size], fill=FULL, width=width)

    def _scores(self, draw: ImageDraw.ImageDraw, time_s: float) -> None:
        """Draw the running mean scores up to a time, on one scale."""
        shown = [film.curve(self.until_s) for film in self.films]
        most = max((float(means.max()) for _, means in shown if len(means)), default=0.0) or 1.0
        left, right = 12, self.size[0] - 110
        ground = self.size[1] - GROUND
        self._text(draw, (left, ground - CURVES - 2), "mean score so far, s", 11, SOFT)
        draw.line([*self._fine((left, ground)), *self._fine((right, ground))], fill=LINE, width=FINER)
        ends = []
        for (times, means), colour in zip(shown, OF_POLICY, strict=False):
            past = times <= time_s
            x = left + (right - left) * times[past] / self.until_s
            y = ground - (CURVES - 12) * means[past] / most
            points = [self._fine(place) for place in zip(x, y, strict=True)]
            if len(points) > 1:
                draw.line(points, fill=colour, width=2 * FINER)
            ends.append(float(y[-1]) if len(y) else float(ground))
        for i in range(len(ends)):
            # Labels keep a distance where the curves do not.
            other = ends[1 - i] if len(ends) > 1 else -math.inf
            apart = 0.0 if abs(ends[i] - other) >= 14 else (7 if (ends[i], i) > (other, 1 - i) else -7)
            mean = self.films[i].at(time_s).mean_s
            self._text(draw, (right + 6, ends[i] + apart), f"{number(mean) or '-'} s", 13, OF_POLICY[i])

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
