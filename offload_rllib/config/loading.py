"""From a preset's name, a file or an object, and overrides, to a checked configuration."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from offload_rllib.config.base import PRESET_FILE, DataFolders
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.policy import PolicyConfig
from offload_rllib.config.sweep import SweepConfig
from offload_rllib.config.trust import refuse_code, texts_in
from offload_rllib.config.yaml_text import LARGEST_DEPTH, parse

PACKAGE = Path(__file__).resolve().parent.parent

LONGEST_SHOWN = 200

Model = TypeVar("Model", bound=BaseModel)


def preset_folder(kind: str) -> Path:
    """Return the folder of presets: the checkout's if the package runs from one, otherwise the wheel's.

    Args:
        kind: ``envs``, ``policies`` or ``tune_configs``.
    """
    checkout = PACKAGE.parent / kind
    if (PACKAGE.parent / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    return PACKAGE / "presets" / kind


def presets(kind: str) -> dict[str, Path]:
    """Return the presets of a kind by name."""
    return {path.stem: path for path in sorted(preset_folder(kind).glob("*.yaml"))}


def nearest(word: str, accepted: Iterable[str]) -> str:
    """Return an ending for an error message: the nearest accepted word, and all of them."""
    options = sorted(accepted)
    close = difflib.get_close_matches(word, options, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{hint} Accepted: {', '.join(options)}."


def find(kind: str, name: str | Path) -> Path:
    """Return the file of a preset's name or of a path to a YAML file.

    Raises:
        ConfigError: there is no such preset or file.
    """
    text = str(name)
    if text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(text)
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        return path
    known = presets(kind)
    if text not in known:
        raise ConfigError(f"'{text}' is not a preset of {kind}/, nor a path ending in .yaml.{nearest(text, known)}")
    return known[text]


def find_data(name: str) -> Path:
    """Return a data file by the name that a loaded configuration has for it (see `config.base.DataFile`).

    Raises:
        ConfigError: there is no such file (any more).
    """
    path = preset_folder("envs") / name.removeprefix(PRESET_FILE) if name.startswith(PRESET_FILE) else Path(name)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        content = parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values, is {type(content).__name__}")
    return content


def apply_overrides(content: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `content` with ``a.b=value`` overrides applied; values are read as YAML.

    Parts of a key that are numbers index lists. Keys are checked later, by the schema.

    Raises:
        ConfigError: an override is not of that form, or leads through something that has no parts.
    """
    result = _copied(content)
    for override in overrides:
        _put(result, override.partition("=")[0], override_value(override), f"override '{override}'")
    return result


def override_value(override: str) -> Any:
    """Return the value of an override ``a.b=value``.

    Raises:
        ConfigError: it is not of that form.
    """
    key, equals, text = override.partition("=")
    if not equals or not key or key.count(".") >= LARGEST_DEPTH:
        raise ConfigError(f"override '{_shortened(override)}': must be KEY=VALUE, e.g. workload.load.rho=1.0")
    try:
        return parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"override '{_shortened(override)}': the value is not valid YAML: {' '.join(str(error).split())}"
        ) from error


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value


def with_values(content: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `content` in which the keys `a.b` of `values` have those values.

    Raises:
        ConfigError: a key leads through something that has no parts.
    """
    result = _copied(content)
    for key, value in values.items():
        _put(result, key, _copied(value), f"{key}: {value!r}")
    return result


def _put(content: dict[str, Any], key: str, value: Any, where: str) -> None:
    place: Any = content
    *parents, last = key.split(".")
    for part in parents:
        place = _step(place, part, where, create=True)
    _step(place, last, where, create=False)
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value


def _step(place: Any, part: str, where: str, *, create: bool) -> Any:
    if isinstance(place, list):
        if not part.isdecimal() or int(part) >= len(place):
            raise ConfigError(f"{where}: '{part}' must be an index from 0 to {len(place) - 1}")
        return place[int(part)]
    if isinstance(place, dict):
        if create and place.get(part) is None:
            place[part] = {}
        return place.get(part)
    raise ConfigError(f"{where}: '{part}' leads into a {type(place).__name__}, which has no keys")


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Return one line per problem: `where`, the key, the value and what is accepted."""
    schema = model.model_json_schema(by_alias=True)
    lines = []
    problems = error.errors()
    for problem in problems:
        place = problem["loc"]
        # A list whose only member is wrong is called too short as well.
        if problem["type"] == "too_short" and any(place == p["loc"][: len(place)] != p["loc"] for p in problems):
            continue
        keys = [str(part) for part in problem["loc"] if not str(part).startswith("(")]
        path = ".".join(_written_keys(schema, keys)) or "(whole file)"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: {path}: unknown key.{nearest(keys[-1], _siblings(schema, keys[:-1]))}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: {path}: missing")
        else:
            given = problem["input"]
            shown = "" if isinstance(given, dict | list | BaseModel) else f" (given: {_shortened(repr(given))})"
            message = problem["msg"].removeprefix("Value error, ")
            if "(number)" in place and problem["type"] == "float_type":
                message = "must be a number, or {per_episode: [low, high]}"
            lines.append(f"{where}: {path}: {message}{shown}")
    return "\n".join(lines)


def _written_keys(schema: dict[str, Any], keys: list[str]) -> list[str]:
    """Return a path without the names of union members, which pydantic puts in and no user wrote."""
    written = []
    here: dict[str, Any] = schema
    for key in keys:
        here, is_tag = _advance(schema, here, key)
        if not is_tag:
            written.append(key)
    return written


def _siblings(schema: dict[str, Any], keys: list[str]) -> list[str]:
    """Return the keys accepted in place of an unknown one, following the path through the schema."""
    here: dict[str, Any] = schema
    for key in keys:
        here, _ = _advance(schema, here, key)
    return list(_mapping_of(schema, here).get("properties", {}))


def _mapping_of(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return what a part of the schema accepts as a mapping or a list, even if null or numbers are accepted, too."""
    node = _resolve(schema, node)
    if "discriminator" in node:
        return node
    options = [_mapping_of(schema, option) for option in (*node.get("anyOf", ()), *node.get("oneOf", ()))]
    return next((option for option in options if {"properties", "items", "discriminator"} & set(option)), node)


def _advance(schema: dict[str, Any], here: dict[str, Any], key: str) -> tuple[dict[str, Any], bool]:
    """Return what a part of a path leads to, and whether that part is the name of a union's member."""
    here = _mapping_of(schema, here)
    mapping = here.get("discriminator", {}).get("mapping", {})
    if key in mapping:
        return {"$ref": mapping[key]}, True
    if key.isdigit():
        return here.get("items") or {}, False
    if key in here.get("properties", {}):
        return here["properties"][key], False
    # A mapping whose keys are names of the user.
    values = [here.get("additionalProperties"), *here.get("patternProperties", {}).values()]
    return next((value for value in values if isinstance(value, dict)), {}), False


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def validated(model: type[Model], content: Mapping[str, Any], where: str, context: DataFolders | None = None) -> Model:
    """Return `content` as a checked `model`.

    Args:
        model: the schema.
        content: what was given.
        where: its name in messages.
        context: where data files are looked up; None: their names are taken as they are.

    Raises:
        ConfigError: one line per problem, each with `where`, the key, the value and what is accepted.
    """
    try:
        return model.model_validate(content, context=context)
    except ValidationError as error:
        raise ConfigError(explain(error, model, where)) from error


def _load(
    model: type[Model],
    kind: str,
    source: Any,
    overrides: Iterable[str],
    where: str | None = None,
    *,
    trust: bool = False,
) -> Model:
    overrides = list(overrides)
    folder: Path | None = Path.cwd()
    path = None
    if isinstance(source, model):
        if not overrides:
            return source
        content = source.model_dump(mode="json", by_alias=True)
    elif isinstance(source, Mapping):
        content = dict(source)
    else:
        path = find(kind, source)
        content, where = read_yaml(path), where or str(path)
        folder = None if path.resolve().parent == preset_folder(kind).resolve() else path.resolve().parent
    values = [override_value(override) for override in overrides]
    folders = DataFolders(
        folder, preset_folder("envs"), frozenset(text for value in values for text in texts_in(value))
    )
    loaded = validated(model, apply_overrides(content, overrides), where or model.__name__, folders)
    if path is not None:
        refuse_code(path, loaded, trust=trust)
    return loaded


def load_environment(
    source: str | Path | Mapping[str, Any] | EnvironmentConfig,
    overrides: Iterable[str] = (),
    *,
    where: str | None = None,
    trust: bool = False,
) -> EnvironmentConfig:
    """Return an environment's configuration.

    Args:
        source: a preset's name, a path to a YAML file, a mapping, or a configuration.
        overrides: ``a.b=value`` texts, applied in order.
        where: what to call the source in messages; None: by its file, or by what it is.
        trust: use a file of a run's folder though it names Python functions, whose code will run.

    Raises:
        ConfigError: the input is invalid, or names code that is not trusted.
    """
    return _load(EnvironmentConfig, "envs", source, overrides, where, trust=trust)


def load_policy_config(
    source: str | Path | Mapping[str, Any] | PolicyConfig, overrides: Iterable[str] = (), *, trust: bool = False
) -> PolicyConfig:
    """Return a policy's configuration; arguments and errors as `load_environment`."""
    return _load(PolicyConfig, "policies", source, overrides, trust=trust)


def load_sweep(
    source: str | Path | Mapping[str, Any] | SweepConfig, overrides: Iterable[str] = (), *, trust: bool = False
) -> SweepConfig:
    """Return a sweep's configuration, whose environment and policy are still names; see `sweep.plan`.

    Arguments and errors as `load_environment`.
    """
    return _load(SweepConfig, "tune_configs", source, overrides, trust=trust)
