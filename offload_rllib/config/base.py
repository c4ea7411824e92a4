"""The elements of the schema: bounded numbers, the base class, distributions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo

LARGEST_CAPACITY = 2**31 - 2

# Within these, products and quotients of several numbers stay finite, and so do their float32 forms in observations.
SMALLEST, LARGEST = 1e-30, 1e30


def _within_bounds(value: float) -> float:
    if value != 0 and not SMALLEST <= abs(value) <= LARGEST:
        raise ValueError(f"its size must be between {SMALLEST:g} and {LARGEST:g}")
    return value


# Strict: neither text nor true passes for a number.
WITHIN_BOUNDS = AfterValidator(_within_bounds)
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True), WITHIN_BOUNDS]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True), WITHIN_BOUNDS]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True), WITHIN_BOUNDS]
# Beyond any device, and within what 10^(x / 10) can hold.
Decibel = Annotated[float, Field(ge=-300, le=300, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Capacity = Annotated[int, Field(ge=1, le=LARGEST_CAPACITY, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
# What a file calls a node or a type: such names are addresses of random streams and parts of keys.
Name = Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$")]
# A text that refers to something by its name.
Reference = Annotated[str, Field(min_length=1, strict=True)]

# Marks a field whose text may name a Python function of the user: using it runs that code (`config.trust`).
NAMES_CODE = "names code"

# A Python function of the user: the dotted path of its module, a colon, its name.
FUNCTION_PATH = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


# A class or function of the user, where no name of this project is accepted.
CodePath = Annotated[str, Field(pattern=f"^{FUNCTION_PATH}$")]


def is_function_path(text: str) -> bool:
    """Return whether a text names a Python function, as ``package.module:function``."""
    return re.fullmatch(FUNCTION_PATH, text) is not None


# Marks a key that is younger than its file format: it counts in the fingerprint where it is not its default.
ADDED = "added"


class Schema(BaseModel):
    """Base of every part of a configuration: immutable, unknown keys rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class AlgorithmSettings(Schema):
    """An algorithm whose implementation may be replaced."""

    implementation: Annotated[CodePath | None, NAMES_CODE] = None
    """Your own configuration class, as package.module:Class: a subclass of this package's for the algorithm, which may
    bring its own algorithm or learner (`docs/rollout.md`)."""


def bare_word_is(key: str) -> Any:
    """Return a validator of a `Schema` that reads a bare word in YAML as a mapping with this key alone."""

    def read(_model: type[Schema], value: Any) -> Any:
        return {key: value} if isinstance(value, str) else value

    # Declared for the body of a class, where the type checker sees a method.
    return model_validator(mode="before")(classmethod(read))  # pyright: ignore[reportArgumentType]


class PerEpisode(Schema):
    """A number that is drawn again for every episode, uniformly from low to high (domain randomisation)."""

    per_episode: tuple[NonNegative, NonNegative]
    """Low and high end."""

    @model_validator(mode="after")
    def _ordered(self) -> PerEpisode:
        if self.per_episode[0] > self.per_episode[1]:
            raise ValueError("per_episode needs low <= high")
        return self


def _member(value: Any) -> str:
    return "(per episode)" if isinstance(value, dict | PerEpisode) else "(number)"


def _above_0(value: PerEpisode) -> PerEpisode:
    if not value.per_episode[0] > 0:
        raise ValueError("per_episode needs 0 < low here")
    return value


# The tags in brackets are not keys: messages about bad values leave them out.
PositiveOrRange = Annotated[
    Annotated[Positive, Tag("(number)")] | Annotated[PerEpisode, AfterValidator(_above_0), Tag("(per episode)")],
    Discriminator(_member),
]
NonNegativeOrRange = Annotated[
    Annotated[NonNegative, Tag("(number)")] | Annotated[PerEpisode, Tag("(per episode)")], Discriminator(_member)
]


def ends(value: float | PerEpisode) -> tuple[float, float]:
    """Return the low and the high end of a number, which are one and the same unless it is drawn per episode."""
    return value.per_episode if isinstance(value, PerEpisode) else (value, value)


class Lognormal(Schema):
    """Lognormal above a least value: the least value, and the exponential of a normally distributed number."""

    mean: PositiveOrRange
    """Mean."""
    cv: PositiveOrRange = 1.0
    """Coefficient of variation: standard deviation over mean."""
    least: NonNegativeOrRange = 0.0
    """The least value, below the mean."""

    @model_validator(mode="after")
    def _above_least(self) -> Lognormal:
        if not ends(self.least)[1] < ends(self.mean)[0]:
            raise ValueError("lognormal needs least < mean, also where they are drawn per episode")
        return self


class Pareto(Schema):
    """Bounded Pareto: density proportional to x^(-shape - 1) from low to high."""

    low: PositiveOrRange
    """Smallest value."""
    high: PositiveOrRange
    """Largest value."""
    shape: PositiveOrRange
    """Tail index; the smaller, the heavier the tail."""

    @model_validator(mode="after")
    def _ordered(self) -> Pareto:
        if not ends(self.low)[1] < ends(self.high)[0]:
            raise ValueError("pareto needs low < high, also where they are drawn per episode")
        return self


class Choice(Schema):
    """One of a list of values."""

    values: tuple[NonNegative, ...] = Field(min_length=1)
    """The values."""
    weights: tuple[Positive, ...] | None = None
    """Their relative probabilities, in the same order; null: all equal."""

    @model_validator(mode="after")
    def _as_many(self) -> Choice:
        if self.weights is not None and len(self.weights) != len(self.values):
            raise ValueError(f"choice needs as many weights as values: {len(self.values)}, not {len(self.weights)}")
        return self


class Distribution(Schema):
    """A distribution of a positive quantity; in YAML a bare number, or one of the keys below.

    A parameter may be a range `{per_episode: [low, high]}`, from which each episode draws its own.
    """

    constant: NonNegativeOrRange | None = None
    """Always this value."""
    exponential: PositiveOrRange | None = None
    """Exponential with this mean."""
    uniform: tuple[NonNegativeOrRange, NonNegativeOrRange] | None = None
    """Uniform from low to high."""
    lognormal: Lognormal | None = None
    """Lognormal with this mean, coefficient of variation and least value."""
    pareto: Pareto | None = None
    """Bounded Pareto: heavy tail between two bounds."""
    choice: Choice | None = None
    """One of the listed values, by weight: an empirical distribution."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        if isinstance(value, dict) and list(value) == ["per_episode"]:
            return {"constant": value}
        return {"constant": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> Distribution:
        keys = list(type(self).model_fields)
        if len([key for key in keys if getattr(self, key) is not None]) != 1:
            raise ValueError(f"give a number, or exactly one of: {', '.join(keys)}")
        if self.uniform is not None and ends(self.uniform[0])[1] > ends(self.uniform[1])[0]:
            raise ValueError("uniform needs low <= high, also where they are drawn per episode")
        return self

    @property
    def parameters(self) -> tuple[float | PerEpisode, ...]:
        """The parameters in the order of their keys; none of a `choice`."""
        if self.lognormal is not None:
            return self.lognormal.mean, self.lognormal.cv, self.lognormal.least
        if self.pareto is not None:
            return self.pareto.low, self.pareto.high, self.pareto.shape
        if self.uniform is not None:
            return self.uniform
        single = self.constant if self.constant is not None else self.exponential
        return () if single is None else (single,)

    @property
    def mean(self) -> float:
        """The mean, in the unit of the key that holds the distribution; over the episodes where parameters vary."""
        if self.choice is not None:
            weights = self.choice.weights or (1.0,) * len(self.choice.values)
            return math.fsum(w * x for w, x in zip(weights, self.choice.values, strict=True)) / math.fsum(weights)
        if self.pareto is not None:
            return _mean_over(_pareto_mean, [ends(value) for value in self.parameters])
        middle = [math.fsum(ends(value)) / 2 for value in self.parameters]
        return (middle[0] + middle[1]) / 2 if self.uniform is not None else middle[0]


def _pareto_mean(low: float, high: float, shape: float) -> float:
    # low times the ratio of the integrals over [0, x] of e^(-(shape - 1) t) and e^(-shape t), x = ln(high / low).
    x = math.log(high / low)
    whole = -math.expm1(-shape * x) / shape
    return low * (x if shape == 1 else -math.expm1((1 - shape) * x) / (shape - 1)) / whole


def _mean_over(function: Callable[..., float], spans: list[tuple[float, float]], *given: float) -> float:
    """Return the mean of a function over a box, by Simpson's rule with 20 intervals in each direction."""
    if len(given) == len(spans):
        return function(*given)
    low, high = spans[len(given)]
    if low == high:
        return _mean_over(function, spans, *given, low)
    weights = [1.0, *[4.0, 2.0] * 9, 4.0, 1.0]
    values = (_mean_over(function, spans, *given, low + (high - low) * i / 20) for i in range(21))
    return math.fsum(w * value for w, value in zip(weights, values, strict=True)) / 60


PRESET_FILE = "preset:"
"""Begins the name of a data file that lies with the environment presets, in whatever checkout or wheel they are."""


@dataclass(frozen=True)
class DataFolders:
    """Where data files are looked up while a configuration is loaded: the context of its validation."""

    of_file: Path | None
    """Folder of the YAML file that names them; None: that of the environment presets."""
    presets: Path
    """Folder of the environment presets."""
    from_here: frozenset[str] = frozenset()
    """Names that overrides gave, which are relative to the working folder."""


def _located(value: Any, info: ValidationInfo) -> Any:
    """Return the one name by which a data file is found from anywhere: an absolute path, or one among the presets."""
    if not isinstance(value, str) or not isinstance(info.context, DataFolders):
        return value
    folders = info.context
    if value.startswith(PRESET_FILE):
        found, name = folders.presets / value.removeprefix(PRESET_FILE), value
    elif folders.of_file is None and value not in folders.from_here and not Path(value).expanduser().is_absolute():
        found, name = folders.presets / value, f"{PRESET_FILE}{value}"
    else:
        folder = Path.cwd() if value in folders.from_here else folders.of_file or Path.cwd()
        found = (folder / Path(value).expanduser()).resolve()
        name = str(found)
    if not found.is_file():
        raise ValueError(f"no such file: {found}")
    return name


NAMES_A_FILE = BeforeValidator(_located)
# The name of a data file: relative to the YAML file that holds it (to the working folder in an override or a mapping),
# or `preset:` and a name relative to the environment presets. Loading makes it absolute, and rejects what is not there.
DataFile = Annotated[str, NAMES_A_FILE, Field(min_length=1, strict=True)]


def _beside(value: Any, info: ValidationInfo) -> Any:
    """Return the path of a YAML file that lies where a data file would be looked for; any other text as it is."""
    if not isinstance(value, str) or not isinstance(info.context, DataFolders):
        return value
    folder = Path.cwd() if value in info.context.from_here else info.context.of_file
    found = None if folder is None else (folder / Path(value).expanduser()).resolve()
    return value if found is None or not found.is_file() else str(found)


# The name of a preset, or of a YAML file in the folder of the one that names it, or in the working folder.
ConfigName = Annotated[str, BeforeValidator(_beside), Field(min_length=1, strict=True)]


def fields_in(part: Any) -> Iterator[tuple[FieldInfo, Any]]:
    """Yield every key of the schemas that a configuration is made of, with its value; the outer ones first."""
    if isinstance(part, BaseModel):
        for name, field in type(part).model_fields.items():
            value = getattr(part, name)
            yield field, value
            yield from fields_in(value)
    elif isinstance(part, Mapping | list | tuple):
        for value in part.values() if isinstance(part, Mapping) else part:
            yield from fields_in(value)


def names_a_file(field: FieldInfo) -> bool:
    """Return whether a key of a `Schema` holds the name of a data file."""
    options = [getattr(option, "__metadata__", ()) for option in get_args(field.annotation)]
    return any(NAMES_A_FILE in metadata for metadata in (field.metadata, *options))
