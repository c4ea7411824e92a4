"""Workloads: what tasks need, and how many of them a given load means."""
