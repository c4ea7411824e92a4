"""Policies: networks, RLlib modules, and trained policies on disk."""
