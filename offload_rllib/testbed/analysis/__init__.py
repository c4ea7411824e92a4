"""Logs of tasks of a testbed, or of a user's own hardware: beside the simulator, and as a calibration of it."""
