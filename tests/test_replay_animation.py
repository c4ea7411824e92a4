"""An animation shows the same episode as the page, in a file that a README can hold."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from helpers.environments import at_once
from PIL import Image, ImageColor

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.evaluation.metrics import SCORE
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.replay import animation
from offload_rllib.replay.animation import PANEL, Animation, Film
from offload_rllib.replay.record import Recording, record
from offload_rllib.replay.story import RESULT, Story, tell
from offload_rllib.replay.write import write_replay
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import FINISHED, FREE

POLICIES = ["shortest_finish", "local"]


@pytest.fixture(scope="module")
def told() -> tuple[list[Recording], list[Story]]:
    scenario = build_scenario(load_environment(at_once(warmup_s=5, drain_s=5)))
    recordings = [record(scenario, contender, seed=0, episode=0) for contender in make_contenders(POLICIES)]
    return recordings, [tell(recording) for recording in recordings]


def test_the_numbers_end_at_those_of_the_evaluation(told: tuple[list[Recording], list[Story]]) -> None:
    for recording, story in zip(*told, strict=True):
        film = Film(recording, story)
        before, last = film.at(0.0), film.at(40.0)
        assert np.isnan(before.mean_s)
        assert before.finished == before.dropped == before.at_nodes.sum() == 0
        assert last.mean_s == pytest.approx(recording.figures[SCORE])
        assert last.finished == (recording.log["outcome"] == FINISHED).sum()
        inside = (recording.last["stage"] != FREE).sum()
        assert last.finished + last.dropped + inside == len(recording.log)
        middle = film.at(20.0)
        created = (recording.log["created_s"] <= 20.0).sum()
        on_links = ((story.legs["from_s"] <= 20.0) & (story.legs["to_s"] > 20.0)).sum()
        assert middle.finished + middle.dropped + middle.at_nodes.sum() + on_links == created


def test_frames_show_tasks_on_links_levels_and_drops(told: tuple[list[Recording], list[Story]]) -> None:
    recordings, stories = told
    shown = Animation(recordings, stories, "a ring", 40.0)

    def count(picture: Image.Image, colour: str) -> int:
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        return int((np.abs(np.asarray(picture, int) - wanted).max(-1) < 12).sum())

    first, later = shown.frame(0.0, 0.5), shown.frame(30.0, 0.5)
    assert first.size == (2 * PANEL[0], shown.size[1])
    leg = stories[0].legs[stories[0].legs["what"] == 0][3]
    assert count(shown.frame(float(leg["from_s"]) + 0.2, 0.5), animation.TASK) > count(first, animation.TASK) + 20
    assert count(later, animation.LEVEL) > count(first, animation.LEVEL) + 20
    drop = stories[1].drops[0]
    assert count(shown.frame(float(drop["time_s"]), 0.5), animation.FULL) > count(first, animation.FULL) + 20
    # A level is inside its node: nothing of it beside the nodes of either panel.
    y, x = np.nonzero(np.abs(np.asarray(later, int) - ImageColor.getrgb(animation.LEVEL)).max(-1) < 12)
    places = shown._places.at(30.0)[0] * (1, -1) + (0, 1)  # pictures count from the top
    corners = [(panel * PANEL[0] + animation.MARGIN, animation.TOP + animation.MARGIN) for panel in range(2)]
    centres = np.concatenate([places * shown._area + corner for corner in corners])
    distance = np.hypot(*(np.stack([x, y], 1)[:, None] - centres).transpose(2, 0, 1)).min(1)
    assert distance.max() < shown._radius + 1
    # What is rare keeps its colour in a file.
    result = stories[0].legs[stories[0].legs["what"] == RESULT][3]
    quantized = shown.frame(float(result["from_s"]) + 0.2, 0.5).quantize(
        palette=animation.palette(), dither=Image.Dither.NONE
    )
    assert count(quantized.convert("RGB"), animation.DONE) > 10


def test_the_curves_are_those_of_the_scores(told: tuple[list[Recording], list[Story]]) -> None:
    recordings, stories = told
    for recording, story in zip(recordings, stories, strict=True):
        film = Film(recording, story)
        times, means = film.curve(40.0)
        assert means[-1] == pytest.approx(recording.figures[SCORE])
        assert film.curve(20.0)[0].max() <= 20.0
        assert all(film.at(float(at)).mean_s == mean for at, mean in zip(times[:-1:7], means[:-1:7], strict=True))
    shown = Animation(recordings, stories, "a ring", 40.0)
    ground = shown.size[1] - animation.GROUND
    strip = shown.frame(40.0, 0.5).crop((0, ground - animation.CURVES, shown.size[0] - 120, ground - 3))
    pixels = np.asarray(strip, int)
    for colour, film in zip(animation.OF_POLICY, shown.films, strict=True):
        of_colour = np.abs(pixels - ImageColor.getrgb(colour)).max(-1) < 40
        y, x = np.nonzero(of_colour)
        times, means = film.curve(40.0)
        most = max(float(each.curve(40.0)[1].max()) for each in shown.films)
        at = int(np.searchsorted(times, (x.max() - 12) / (shown.size[0] - 122) * 40.0, side="right")) - 1
        expected = animation.CURVES - (animation.CURVES - 12) * means[max(at, 0)] / most
        assert y[x == x.max()].mean() == pytest.approx(expected, abs=4)


def test_it_is_written_with_the_frames_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "FRAMES", 22)
    monkeypatch.setattr(animation, "FEWEST_FRAMES", 15)
    environment = at_once(warmup_s=5, drain_s=5)
    written = write_replay(tmp_path / "small.gif", POLICIES, environment)
    content = written.path.read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.n_frames, picture.info["loop"]) == ("GIF", 22, 0)
    assert written.size_bytes == len(content)
    monkeypatch.setattr(animation, "MOST_BYTES", len(content) - 1)
    shorter = write_replay(tmp_path / "shorter.gif", POLICIES, environment)
    assert shorter.size_bytes < len(content)
    monkeypatch.setattr(animation, "MOST_BYTES", 1000)
    fewest = write_replay(tmp_path / "fewest.gif", POLICIES, environment)
    with Image.open(fewest.path) as picture:
        assert picture.n_frames == 15
    monkeypatch.setattr(animation, "LARGEST_BYTES", fewest.size_bytes - 1)
    with pytest.raises(ConfigError, match=r"takes more than 0\.\d+ MB; write a page instead"):
        write_replay(tmp_path / "none.gif", POLICIES, environment)
    assert not (tmp_path / "none.gif").exists()
