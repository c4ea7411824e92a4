"""Policies on common random numbers: players, metrics, statistics, lower bound. Imports no ray."""
