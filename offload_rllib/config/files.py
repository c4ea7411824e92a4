"""Files that appear whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_at_once(path: Path) -> Iterator[Path]:
    """Give a path to write to; it becomes `path` when the block ends, and vanishes if the block fails.

    Raises:
        OSError: the folder does not take the file (no such folder, no permission, full disk).
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        partial = Path(file.name)
    try:
        yield partial
        partial.chmod(0o644)  # temporary files are private; results are to be shared
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
