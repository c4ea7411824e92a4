"""The simulator as an environment: native batches, PettingZoo, RLlib."""
