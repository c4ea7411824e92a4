"""Distances on the globe, and the time that light in a fibre takes for them."""

from __future__ import annotations

import numpy as np

EARTH_RADIUS_M = 6.371e6
FIBRE_M_PER_S = 2.0e8  # two thirds of the speed of light in vacuum


def distance_m(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the distance on the globe of two points (latitude, longitude) in degrees, by the haversine formula."""
    (lat_a, lon_a), (lat_b, lon_b) = np.radians([a, b])
    h = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    return float(2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(h)))
