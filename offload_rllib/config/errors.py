"""The one error a user's input can cause."""

from __future__ import annotations


class ConfigError(ValueError):
    """The user's input is invalid: the message names file, key, value and what is accepted.

    The command line prints the message alone and exits with code 2.
    """


def input_problem(error: object) -> str | None:
    """Return the message of the ConfigError with which another process ended, by what Ray tells of it.

    What the user gave stays wrong however often it is tried: such an error is never tried again.

    Args:
        error: as Ray returned it.
    """
    _, found, message = str(error).rpartition(f"{ConfigError.__module__}.{ConfigError.__qualname__}: ")
    if found:
        return message
    return str(error) if isinstance(error, ConfigError) else None
