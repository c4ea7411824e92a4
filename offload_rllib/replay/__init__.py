"""Replays: one held-out episode of one policy, or of two on the same arrivals, as a page that moves."""
