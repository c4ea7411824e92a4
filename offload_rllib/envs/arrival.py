"""Stub."""


class ArrivalEnv:
    """Stub."""
