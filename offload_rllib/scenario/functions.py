"""Functions and classes of the user, named in a configuration by a dotted path ``package.module:name``."""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from offload_rllib.config.base import is_function_path
from offload_rllib.config.errors import ConfigError

Class = TypeVar("Class")


def load_object(path: str, where: str) -> Any:
    """Return what ``package.module:name`` names; modules in the working folder are found, too.

    Args:
        path: the dotted path.
        where: the key that holds it, for messages.

    Raises:
        ConfigError: the text is not such a path, there is no such module, or nothing of that name that can be called.
    """
    if not is_function_path(path):
        raise ConfigError(f"{where}: '{path}' is not of the form package.module:function")
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ConfigError(f"{where}: {path}: importing {module_name} failed: {error!r}") from error
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(f"{where}: {path}: {module_name} has no function '{name}'")
    return found


def load_class(path: str, where: str, base: type[Class]) -> type[Class]:
    """Return the class that ``package.module:Class`` names; arguments and errors as `load_object`.

    Raises:
        ConfigError: it is not a subclass of `base`.
    """
    found = load_object(path, where)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{where}: {path} must be a subclass of {base.__module__}:{base.__qualname__}")
    return found


def load_function(path: str, where: str) -> Callable[..., Any]:
    """Return the function that ``package.module:function`` names; arguments and errors as `load_object`.

    What it raises becomes a ConfigError that says where; the original error is its cause.
    """
    function = load_object(path, where)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is this one
            place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
            raise ConfigError(f"{where}: {path} raised {error!r}{place}") from error

    return call
