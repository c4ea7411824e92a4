"""Rows of CSV files of others, checked field by field: an error names file, row, column and what is accepted."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload_rllib.config.base import LARGEST, SMALLEST
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import nearest
from offload_rllib.scenario.text_files import opened_text
from offload_rllib.scenario.topology.files import number_of

POSITIVE = f"{SMALLEST:g} to {LARGEST:g}"
NON_NEGATIVE = f"0 to {LARGEST:g}"


@dataclass(frozen=True)
class Row:
    """One row of a file, by column."""

    path: Path
    number: int
    """From 1, without the header."""
    fields: Mapping[str, str]

    def wrong(self, column: str, accepted: str) -> ConfigError:
        """Return the error that a field is not what is accepted."""
        return ConfigError(
            f"{self.path}: row {self.number}: column '{column}': {self.fields[column]!r}; accepted: {accepted}"
        )

    def number_of(self, column: str, fits: Callable[[float], bool], accepted: str, empty: float | None = None) -> float:
        """Return a number; `empty` of an empty field.

        Raises:
            ConfigError: it is not a number, or does not fit.
        """
        text = self.fields[column]
        if text == "" and empty is not None:
            return empty
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not fits(value):
            raise self.wrong(column, accepted)
        return value

    def positive(self, column: str, empty: float | None = None) -> float:
        """Return a number above 0."""
        return self.number_of(column, lambda value: SMALLEST <= value <= LARGEST, POSITIVE, empty)

    def non_negative(self, column: str, empty: float | None = None) -> float:
        """Return a number from 0 up."""
        return self.number_of(column, lambda value: 0 <= value <= LARGEST, NON_NEGATIVE, empty)

    def whole(self, column: str, empty: float | None = None) -> float:
        """Return a whole number from 1 up."""
        accepted = "a whole number from 1 up"
        return self.number_of(column, lambda value: 1 <= value <= LARGEST and value == int(value), accepted, empty)

    def one_of(self, column: str, accepted: Sequence[str]) -> str:
        """Return one of some words."""
        if self.fields[column] not in accepted:
            raise self.wrong(column, ", ".join(accepted))
        return self.fields[column]

    def node(self, column: str, index: Mapping[str, int]) -> int:
        """Return the index of the node that a field names."""
        name = self.fields[column]
        if name not in index:
            raise ConfigError(
                f"{self.path}: row {self.number}: column '{column}': no node is named {name!r}.{nearest(name, index)}"
            )
        return index[name]


def rows_of(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a CSV file that has these columns, and maybe others.

    Raises:
        ConfigError: it cannot be read, is damaged, lacks a column, or has a row of another length.
    """
    with opened_text(path) as file:
        reader = csv.reader(file, strict=True)
        header = [name.strip() for name in next(reader, [])]
        for column in columns:
            if header.count(column) != 1:
                why = "missing" if column not in header else "there more than once"
                raise ConfigError(
                    f"{path}: row 0 (the header): column '{column}': {why}; accepted: {','.join(columns)}"
                )
        yield from _checked(path, reader, header, "as in the header")


def rows_without_header(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a CSV file whose columns are these, in this order; errors as `rows_of`."""
    with opened_text(path) as file:
        yield from _checked(path, csv.reader(file, strict=True), columns, ",".join(columns))


def _checked(path: Path, reader: Iterable[Sequence[str]], columns: Sequence[str], said: str) -> Iterator[Row]:
    for number, fields in enumerate(reader, 1):
        if len(fields) != len(columns):
            raise ConfigError(
                f"{path}: row {number}: {len(fields)} fields; accepted: {len(columns)}, {said}. The file may be cut off"
            )
        yield Row(path, number, dict(zip(columns, (field.strip() for field in fields), strict=True)))


def numbers_of_rows(
    path: Path, columns: tuple[str, ...], what: str, text: str = "", signed: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Return the rows of a CSV file whose columns hold numbers from 0 up, except one that may hold any text.

    Args:
        path: of the file.
        columns: their names.
        what: the file holds, for messages.
        text: the column that may hold any text.
        signed: columns whose numbers may be below 0.

    Raises:
        ConfigError: it has other columns, or holds something else; the message names file, row and column.
    """
    rows = []
    with opened_text(path) as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if sorted(header) != sorted(columns):
            raise ConfigError(f"{path}: {what} has the columns {', '.join(columns)}; has {', '.join(header) or 'none'}")
        for number, values in enumerate(reader, start=1):
            if len(values) != len(header):
                raise ConfigError(f"{path}: row {number}: has {len(values)} values for {len(header)} columns")
            row: dict[str, Any] = dict(zip(header, values, strict=True))
            for name in columns:
                if name != text:
                    lowest = -LARGEST if name in signed else 0.0
                    row[name] = _number(row[name], f"{path}: row {number}: column '{name}'", lowest)
            rows.append(row)
    return rows


def _number(text: str, where: str, lowest: float) -> float:
    value = number_of(text, where)
    if value is None or not lowest <= value <= LARGEST:
        raise ConfigError(f"{where}: {text!r}; accepted: numbers from {lowest:g} up to {LARGEST:g}")
    return value
