"""The documentation site, built as `make docs` does."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from helpers.missing import unavailable

CHECKOUT = Path(__file__).parents[2]


def built_site(folder: Path) -> Path:
    """Build the site into a folder; skip the test where MkDocs is missing, and fail where tests are the last word."""
    if importlib.util.find_spec("mkdocs") is None:
        unavailable("MkDocs is not installed: pip install -e '.[docs]'")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=CHECKOUT,
        check=True,
        timeout=300,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    return folder
