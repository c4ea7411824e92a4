"""Folders of runs: names, records, locks, and the lookup of trained policies. Imports no ray."""
