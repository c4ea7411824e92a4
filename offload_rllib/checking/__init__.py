"""Checks of what users write: an environment's file, a policy's file, a trained policy."""
