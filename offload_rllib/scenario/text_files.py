"""Data files as text: UTF-8, with or without the mark of spreadsheets, compressed with gzip or not."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO

from offload_rllib.config.errors import ConfigError

GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a data file; files that gzip compressed are decompressed, whatever their name.

    Raises:
        ConfigError: it cannot be opened, or stops being gzip or UTF-8 while it is read.
    """
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == GZIP_MAGIC
        with gzip.open(path, "rb") if compressed else path.open("rb") as file:
            yield file  # pyright: ignore[reportReturnType] - a GzipFile reads like any other
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error}") from error
    except (EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: damaged gzip file: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error


@contextmanager
def opened_text(path: Path) -> Iterator[TextIO]:
    """Open a data file as text, for the module `csv`.

    Raises:
        ConfigError: as `opened`, or the text is not CSV (quotes that are not closed, invalid characters).
    """
    with opened(path) as file:
        try:
            yield io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        except csv.Error as error:
            raise ConfigError(f"{path}: not a CSV file: {error}") from error
