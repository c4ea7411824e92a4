"""The one error a user's input can cause."""

from __future__ import annotations


class ConfigError(ValueError):
    """Something the user gave cannot be: the message names file, key, value and what is accepted.

    The command line prints the message alone and exits with code 2.
    """
