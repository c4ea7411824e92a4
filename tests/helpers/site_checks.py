"""What makes a page hard to load or to read: weight, a layout wider than a phone, pictures without words, contrast."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from helpers.browser import complaints

MOST_BYTES = 500_000
PICTURES = {".png", ".gif", ".jpg", ".svg", ".ico"}
# Success criterion 1.4.3 of the Web Content Accessibility Guidelines 2.2, level AA: normal and large text.
LEAST_CONTRAST, LEAST_CONTRAST_LARGE = 4.5, 3.0

# Visible texts with too little contrast, each as "ratio: text". Luminance and ratio are those of WCAG 2.2.
CONTRAST = """
const [least, leastLarge] = arguments;
const known = new Map(), grounds = new Map();
const rgba = (text) => {
  if (!known.has(text)) known.set(text, painted(text));
  return known.get(text);
};
const painted = (text) => {
  const canvas = painted.canvas ||= Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const ink = canvas.getContext("2d", { willReadFrequently: true });
  ink.clearRect(0, 0, 1, 1); ink.fillStyle = text; ink.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = ink.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = (front, back) => [0, 1, 2].map((i) => front[i] * front[3] + back[i] * (1 - front[3])).concat(1);
const luminance = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
  const part = c[i] / 255;
  return sum + weight * (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
}, 0);
const behind = (element) => {
  if (!element) return [255, 255, 255, 1];
  if (!grounds.has(element)) {
    grounds.set(element, over(rgba(getComputedStyle(element).backgroundColor), behind(element.parentElement)));
  }
  return grounds.get(element);
};
const found = [], seen = new Set();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
  if (!text || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
  if (element.closest("script, style, math, .headerlink, [hidden]")) continue;
  const style = getComputedStyle(element), size = parseFloat(style.fontSize);
  const back = behind(element), front = over(rgba(style.color), back);
  const key = [style.color, back, size, style.fontWeight].join();
  if (seen.has(key)) continue;
  seen.add(key);
  const [high, low] = [luminance(front), luminance(back)].sort((a, b) => b - a);
  const ratio = (high + 0.05) / (low + 0.05);
  const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  if (ratio < (large ? leastLarge : least)) found.push(`${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
}
return found;
"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Give the address at which a folder is served on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def weight(driver: Any, folder: Path) -> int:
    """Return the bytes of what the open page has loaded without pictures, compressed as web servers send them."""
    script = "return [location.href, ...performance.getEntriesByType('resource').map((entry) => entry.name)]"
    files = {folder / unquote(urlparse(name).path).lstrip("/") for name in driver.execute_script(script)}
    return sum(len(gzip.compress(file.read_bytes(), 6)) for file in files if file.suffix not in PICTURES)


def problems(driver: Any, folder: Path, address: str) -> list[str]:
    """Open a page of a served folder, and return what is wrong with it; empty if nothing is."""
    driver.get(address)
    found = []
    if (bytes_ := weight(driver, folder)) > MOST_BYTES:
        found.append(f"weighs {bytes_ / 1e3:.0f} kB without pictures; at most {MOST_BYTES / 1e3:.0f}")
    # Not innerWidth: a phone zooms out of a page that is too wide, and then its window counts as that wide.
    script = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    width, window = driver.execute_script(script)
    if width > window:
        found.append(f"is {width} pixels wide in a window of {window}")
    script = "return [...document.images].filter((image) => !image.alt.trim()).map((image) => image.src)"
    found += [f"has a picture without words: {source}" for source in driver.execute_script(script)]
    for text in driver.execute_script(CONTRAST, LEAST_CONTRAST, LEAST_CONTRAST_LARGE):
        found.append(f"has a text of little contrast: {text}")
    return found + complaints(driver)
