"""A replay in a real browser. Slow: it starts one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.browser import address, browser, complaints
from helpers.environments import at_once

from offload_rllib.config import load_environment
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.interval_text import number
from offload_rllib.evaluation.metrics import SCORE
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.replay.write import write_replay

POLICIES = ["shortest_finish", "local"]
ENVIRONMENT = at_once(warmup_s=5, drain_s=5)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_replay(tmp_path_factory.mktemp("page") / "replay.html", POLICIES, ENVIRONMENT).path


def figures(driver: Any, name: str) -> list[str]:
    return [found.text for found in driver.find_elements("css selector", f"[data-figure={name}]")]


def ink(driver: Any) -> list[str]:
    """Return what the canvases of both networks show, as texts to compare."""
    script = "return [...document.querySelectorAll('#panels canvas')].map((canvas) => canvas.toDataURL())"
    return driver.execute_script(script)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 400])
def test_a_replay_plays_and_ends_at_the_figures_of_evaluate(page: Path, width: int) -> None:
    with browser(width, 900) as driver:
        keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
        driver.get(address(page))
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        body = driver.find_element("tag name", "body")
        slider, clock = driver.find_element("id", "time"), driver.find_element("id", "clock")
        assert clock.text == "0.0 s of 40 s"
        at_first = ink(driver)
        assert len(at_first) == 2

        body.send_keys(keys.SHIFT, keys.ARROW_RIGHT)
        assert clock.text == "4.0 s of 40 s"
        assert float(slider.get_property("value")) == pytest.approx(4)
        assert all(now != before for now, before in zip(ink(driver), at_first, strict=True))
        slider.send_keys(keys.NULL, keys.ARROW_RIGHT)
        assert clock.text == "4.4 s of 40 s"
        body.send_keys(keys.ARROW_LEFT)
        assert clock.text == "4.0 s of 40 s"

        play = driver.find_element("id", "play")
        body.send_keys(" ")
        assert play.text == "Pause"
        driver.execute_async_script("setTimeout(arguments[0], 700)")
        body.send_keys(" ")
        assert play.text == "Play"
        assert 4 < float(slider.get_property("value")) < 40

        body.send_keys(keys.END)
        assert clock.text == "40.0 s of 40 s"
        contenders = make_contenders(POLICIES)
        expected = evaluate(load_environment(ENVIRONMENT), contenders, episodes=2)
        scores = [number(float(expected.of(policy, SCORE)[..., 0].item())) for policy in POLICIES]
        assert figures(driver, "score") == scores
        table = driver.find_elements("css selector", "#final tr")
        assert [cell.text for cell in table[1].find_elements("css selector", "td")] == scores
        curves = driver.execute_script("return policies.map((policy) => number(policy.score.mean.at(-1)))")
        assert curves == scores
        # What had come has ended in one way, or is still inside.
        script = """return policies.map((policy) => policy.finished.length + policy.drops.length
            + new Set([...policy.stays, ...policy.legs].filter((x) => x.to >= until).map((x) => x.task)).size)"""
        created = driver.execute_script("return created.length")
        assert all(abs(count - created) <= 1 for count in driver.execute_script(script))
        assert complaints(driver) == []


@pytest.mark.slow
def test_a_click_on_a_node_shows_its_details(page: Path) -> None:
    with browser(1400, 1200) as driver:
        driver.get(address(page, "#t=12.5"))
        assert driver.find_element("id", "clock").text == "12.5 s of 40 s"
        chosen = driver.find_element("id", "node")
        for node in (2, 3):
            driver.execute_script(
                """const { canvas, place } = panels[1], box = canvas.getBoundingClientRect();
                canvas.dispatchEvent(new MouseEvent("click", { clientX: box.left + place.x[arguments[0]] + 1,
                    clientY: box.top + place.y[arguments[0]] + 1, bubbles: true }));""",
                node,
            )
            assert chosen.get_property("value") == str(node)
            rows = {
                row.find_element("tag name", "th").text: [td.text for td in row.find_elements("tag name", "td")]
                for row in driver.find_elements("css selector", "#details tr")[1:]
            }
            tasks = driver.execute_script(
                "return policies.map((policy) => String(stateAt(policy, 12.5).at[arguments[0]]))", node
            )
            assert rows["tasks now"] == tasks
        assert complaints(driver) == []


@pytest.mark.slow
def test_nodes_move_and_rejected_tasks_are_counted(tmp_path: Path) -> None:
    overrides = ["horizon_s=60", "warmup_s=5", "drain_s=5", "decisions.reject=true", "workload.deadline_s=1.5"]
    written = write_replay(tmp_path / "moving.html", ["admit_if_in_time"], "move_20", overrides=overrides).path
    lines_of = """const at = panels[0].place.access, n = arguments[0];
        return data.edges.filter(([a, b]) => a === n || b === n)
            .filter(([a, b]) => (at.get(a) ?? b) === b && (at.get(b) ?? a) === a).length"""
    with browser(1400, 900) as driver:
        shown = []
        for time_s in (10, 50):
            driver.get(address(written, f"#t={time_s}"))
            driver.refresh()
            x, y = driver.execute_script("return [[...panels[0].place.x], [...panels[0].place.y]]")
            shown.append(list(zip(x, y, strict=True)))
            tracks = driver.execute_script("return tracks.map((track) => [track.node, placeOf(track, now)])")
            assert len(tracks) == 14
            for n, place in tracks:
                script = "return [panels[0].place.across(arguments[0]), panels[0].place.down(arguments[1])]"
                assert driver.execute_script(script, place["x"], place["y"]) == [x[n], y[n]]
                assert driver.execute_script(lines_of, n) == 1, "a line to one access point alone"
        moved = [before != after for before, after in zip(*shown, strict=True)]
        assert sum(moved[:14]) >= 12
        assert not any(moved[14:])
        rejected = driver.execute_script("return policies[0].drops.filter((d) => d.cause === 6 && d.time <= 50).length")
        assert rejected > 5
        assert f"{rejected} rejected" in figures(driver, "dropped")[0]
        assert "dropped: rejected" in driver.find_element("id", "legend").text
        assert complaints(driver) == []
