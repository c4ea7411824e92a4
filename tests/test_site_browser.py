"""Every page of the site loads quickly, fits a phone and can be read, in light and dark. Slow: it starts a browser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import browser
from helpers.built_site import built_site
from helpers.site_checks import problems, served

pytestmark = pytest.mark.slow


def scheme(driver: Any, value: str) -> None:
    """Let the browser ask for light or dark pages."""
    features = [{"name": "prefers-color-scheme", "value": value}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_site(tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize(("colours", "width"), [("light", 400), ("dark", 400), ("light", 1400)])
def test_every_page_is_light_fits_and_can_be_read(site: Path, colours: str, width: int) -> None:
    pages = sorted(page.relative_to(site) for page in site.rglob("*.html") if page.name != "404.html")
    assert len(pages) > 60
    with served(site) as address, browser(width, 850) as driver:
        scheme(driver, colours)
        found = {str(page): problems(driver, site, f"{address}{page}") for page in pages}
        background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (colours == "light")
    assert {page: wrong for page, wrong in found.items() if wrong} == {}


def test_the_search_finds_a_heading(site: Path) -> None:
    with served(site) as address, browser(1400, 850) as driver:
        driver.get(f"{address}index.html")
        driver.find_element("css selector", ".md-search__input").send_keys("kernels compiled again")
        titles: list[str] = []
        until = time.monotonic() + 30
        while "Troubleshooting" not in titles and time.monotonic() < until:
            time.sleep(0.2)
            titles = [each.text for each in driver.find_elements("css selector", ".md-search-result__article h1")]
        assert "Troubleshooting" in titles


def test_what_is_wrong_with_a_page_is_found(tmp_path: Path) -> None:
    (tmp_path / "heavy.js").write_text("//" + np.random.default_rng(0).bytes(700_000).hex())
    head = "<link rel=icon href=data:,><meta name=viewport content=width=device-width>"
    page = f"<!doctype html><html><head>{head}</head><body>{{}}</body></html>"
    with served(tmp_path) as address, browser(400, 850) as driver:
        for name, content, said in (
            ("good", "<p>text</p><img src='data:,' alt='a picture'>", None),
            ("wide", "<div style='width: 900px'>text</div>", "pixels wide in a window of 400"),
            ("wordless", "<img src='data:,'>", "a picture without words"),
            ("faint", "<p style='color: #949494'>faint</p>", "of little contrast: 3.03: faint"),
            ("faint_behind", "<div style='background: #333'><p style='color: #888'>faint</p></div>", "3.56"),
            ("large", "<h1 style='color: #949494; font-size: 24px'>large</h1>", None),
            ("broken", "<script>nothing.here</script>", "nothing is not defined"),
            ("heavy", "<script src='heavy.js'></script>", "kB without pictures"),
        ):
            (tmp_path / f"{name}.html").write_text(page.format(content))
            found = problems(driver, tmp_path, f"{address}{name}.html")
            assert (found == []) if said is None else any(said in each for each in found), (name, found)
