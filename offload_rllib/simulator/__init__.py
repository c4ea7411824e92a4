"""The simulator: arrays in, arrays out. Imports numpy and numba only."""
