"""Configurations of PeersimGym (arXiv 2403.17637): reading its files, and typed access to their values by key."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offload_rllib.config.errors import ConfigError

# What its Python side writes for a key that is not given.
DEFAULTS = {
    "random.seed": "1234567890",
    "SCALE": "1",
    "CYCLE": "1",
    "CYCLES": "1000",
    "CLOUD_EXISTS": "1",
    "NO_NODES_PER_LAYERS": "5,1",
    "CLOUD_ACCESS": "0,1",
    "CLOUD_POS": "300,300",
    "clientLayers": "0",
    "layersThatGetTasks": "0",
    "clientIsSelf": "1",
    "schedules": "0.6-1000",
    "FREQS": "1e7,3e7",
    "NO_CORES": "4,8",
    "Q_MAX": "10,50",
    "protocol.cld.no_vms": "3",
    "protocol.cld.VMProcessingPower": "1e8",
    "init.Net1.r": "500",
    "protocol.clt.numberOfTasks": "1",
    "protocol.clt.weight": "1",
    "protocol.clt.CPI": "1",
    "protocol.clt.T": "38",
    "protocol.clt.I": "4e7",
    "protocol.clt.minDeadline": "100",
    "protocol.wrk.maxTimeAfterDeadline": "5",
    "protocol.props.B": "2",
    "protocol.props.P_ti": "20",
    "RANDOMIZEPOSITIONS": "true",
    "RANDOMIZETOPOLOGY": "true",
    "MANUAL_CONFIG": "false",
    "protocol.urt.SNR": "45",
}

CARRIED = "carried over"
CHANGED = "changed"
NOTHING = "no counterpart"


@dataclass(frozen=True)
class Note:
    """How one key was handled."""

    key: str
    value: str
    fate: str
    """CARRIED, CHANGED or NOTHING."""
    why: str


def read_peersim(path: Path) -> Reader:
    """Return the keys of a configuration: JSON, a Python dictionary's text, or the simulator's lines `key value`.

    Raises:
        ConfigError: the file cannot be read, or is not one of these.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if "{" not in text:
        return Reader(path, _properties(path, text), speeds_per_tick=True)
    written = text[text.index("{") : text.rindex("}") + 1] if "}" in text else text
    try:
        content = json.loads(written)
    except ValueError:
        try:
            content = ast.literal_eval(written)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise ConfigError(
                f"{path}: neither JSON nor a Python dictionary of plain values; accepted: those, or lines `key value`"
            ) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: must be a dictionary whose keys are text")
    return Reader(path, {key: _text(value) for key, value in content.items()}, speeds_per_tick=False)


def _properties(path: Path, text: str) -> dict[str, str]:
    content: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        given = line.partition("#")[0].strip()
        if not given:
            continue
        key, *rest = given.replace("=", " ", 1).split(maxsplit=1)
        if not rest or not re.fullmatch(r"[A-Za-z_][\w.\-]*", key):
            raise ConfigError(f"{path}: line {number}: '{given}'; accepted: lines `key value`")
        content[key] = rest[0].strip()
    if not content:
        raise ConfigError(f"{path}: holds no keys")
    return content


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(_text(item) for item in value)
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value)


@dataclass
class Reader:
    """Takes values out of a configuration, and records how each key was handled."""

    path: Path
    content: dict[str, str]
    speeds_per_tick: bool
    """Whether the file is the simulator's own, in which speeds are divided by SCALE already."""
    notes: list[Note] = field(default_factory=list)

    def text(self, key: str) -> str:
        """Return a key's value, or PeersimGym's default."""
        if key in self.content:
            return self.content[key]
        if key not in DEFAULTS:
            raise ConfigError(f"{self.path}: {key}: missing")
        return DEFAULTS[key]

    def note(self, key: str, fate: str, why: str) -> None:
        """Record how a key was handled."""
        value = self.content.get(key)
        self.notes.append(Note(key, f"{self.text(key)} (its default)" if value is None else value, fate, why))

    def fail(self, key: str, accepted: str) -> ConfigError:
        """Return the error for an invalid value."""
        return ConfigError(f"{self.path}: {key}: {self.text(key)!r}; accepted: {accepted}")

    def numbers(self, key: str, *, lowest: float = -math.inf, separators: str = ",;") -> list[float]:
        """Return a list of finite numbers, none below `lowest`."""
        text = self.text(key).strip("[] ")
        for separator in separators:
            text = text.replace(separator, " ")
        try:
            values = [float(part) for part in text.split()]
        except ValueError as error:
            raise self.fail(key, "numbers") from error
        if not values or not all(math.isfinite(value) and value >= lowest for value in values):
            raise self.fail(key, f"finite numbers from {lowest:g} up" if lowest > -math.inf else "finite numbers")
        return values

    def number(self, key: str, *, lowest: float = -math.inf) -> float:
        """Return one finite number, not below `lowest`."""
        values = self.numbers(key, lowest=lowest)
        if len(values) != 1:
            raise self.fail(key, "one number")
        return values[0]

    def count(self, key: str, *, lowest: int = 1) -> int:
        """Return one whole number."""
        value = self.number(key, lowest=lowest)
        if value != int(value):
            raise self.fail(key, f"a whole number from {lowest} up")
        return int(value)

    def counts(self, key: str, length: int, what: str, *, lowest: int = 1) -> list[int]:
        """Return whole numbers, one for each of `length` things."""
        values = self.each(key, length, what, lowest=lowest)
        if any(value != int(value) for value in values):
            raise self.fail(key, f"whole numbers from {lowest} up")
        return [int(value) for value in values]

    def whole(self, key: str, *, lowest: int = 0) -> list[int]:
        """Return a list of whole numbers of any length."""
        values = self.numbers(key, lowest=lowest)
        if any(value != int(value) for value in values):
            raise self.fail(key, f"whole numbers from {lowest} up")
        return [int(value) for value in values]

    def each(self, key: str, length: int, what: str, *, lowest: float = 0.0) -> list[float]:
        """Return numbers, one for each of `length` things; defaults are cut or repeated to fit."""
        values = self.numbers(key, lowest=lowest)
        if key not in self.content:
            return (values * length)[:length]
        if len(values) != length:
            raise self.fail(key, f"{length} numbers, one for each {what}")
        return values

    def flag(self, key: str) -> bool:
        """Return a truth value: 0, 1, false, true."""
        value = {"0": False, "false": False, "1": True, "true": True}.get(self.text(key).strip().lower())
        if value is None:
            raise self.fail(key, "0, 1, false, true")
        return value

    def rows(self, key: str) -> list[list[float]]:
        """Return rows separated by semicolons, of numbers separated by commas."""
        accepted = "finite numbers: commas within a row, semicolons between rows"
        try:
            rows = [[float(x) for x in row.split(",")] for row in self.text(key).strip(" ;").split(";")]
        except ValueError as error:
            raise self.fail(key, accepted) from error
        if not all(math.isfinite(x) for row in rows for x in row):
            raise self.fail(key, accepted)
        return rows
