"""The page of `watch` in a real browser. Slow: it starts one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import browser, complaints
from helpers.watching import finished_run, log_rows, running_sweep

from offload_rllib.watching.folder import watched
from offload_rllib.watching.server import Server

NASTY = "<img src=x onerror=document.title='broken'>"


@contextmanager
def opened(folder: Path, width: int) -> Iterator[Any]:
    """Give a driver that shows the page of a folder."""
    with Server(watched(folder), 0) as server, browser(width, 900) as driver:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver.get(server.url)
        until(driver, "return document.getElementById('state').textContent !== ''")
        yield driver
        server.shutdown()


def until(driver: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 30).until(lambda one: one.execute_script(script))


def text(driver: Any, name: str) -> str:
    return driver.find_element("id", name).text


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 400])
def test_a_run_is_followed(tmp_path: Path, width: int) -> None:
    run = finished_run(tmp_path, state="training", description=NASTY)
    with opened(run, width) as driver:
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert text(driver, "state") == "training"
        assert text(driver, "progress").startswith("50 %: 240 of 480 environment steps")
        assert text(driver, "about").startswith(NASTY), "as text"
        assert not driver.find_elements("css selector", "#about img")
        assert len(driver.find_elements("css selector", "#curves polyline")) == 2
        assert "in training: 7.5" in text(driver, "curves")
        with (run / "tune" / "trial" / "result.json").open("a") as file:
            file.write(log_rows([(300, 5.25, 0.1)]))
        (run / "run.json").write_text(json.dumps({"state": "finished"}))
        until(driver, "return document.getElementById('state').textContent === 'finished'")
        assert "in training: 5.25" in text(driver, "curves")
        assert driver.title == "mine: finished"
        assert complaints(driver) == []


@pytest.mark.slow
def test_a_sweep_shows_its_leaderboard(tmp_path: Path) -> None:
    sweep = running_sweep(tmp_path)
    with opened(sweep, 1400) as driver:
        rows = driver.find_elements("css selector", "#table tr")
        assert [row.find_elements("css selector", "td")[0].text for row in rows[1:3]] == ["trial_0001", "trial_0000"]
        assert driver.find_element("id", "health").get_attribute("class") == "bad"
        assert len(driver.find_elements("css selector", "#curves polyline")) == 4
        assert complaints(driver) == []


@pytest.mark.slow
def test_an_error_and_a_server_that_is_gone_are_said(tmp_path: Path) -> None:
    run = finished_run(tmp_path, state="training")
    with Server(watched(run), 0) as server, browser(1400, 900) as driver:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        driver.get(server.url)
        until(driver, "return document.getElementById('state').textContent !== ''")
        assert not driver.find_element("id", "error").is_displayed()
        (run / "status.json").write_text("[]")
        until(driver, "return document.getElementById('error').textContent.includes('not the status of a run')")
        server.shutdown()
        server.server_close()
        until(driver, "return document.getElementById('error').textContent.includes('does not answer')")
