"""Functions of the user's, named in a configuration by a dotted path ``package.module:function``."""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from offload_rllib.config.base import is_function_path
from offload_rllib.config.errors import ConfigError


def load_function(path: str, where: str) -> Callable[..., Any]:
    """Return the function that ``package.module:function`` names; modules in the working folder are found, too.

    What it raises becomes a ConfigError that says where; the original error is its cause.

    Args:
        path: the dotted path.
        where: the key that holds it, for messages.

    Raises:
        ConfigError: the text is no such path, or there is no such module or function.
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
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{where}: {path}: {module_name} has no function '{name}'")

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is this one
            place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
            raise ConfigError(f"{where}: {path} raised {error!r}{place}") from error

    return call
