"""The verb `bench`: speed of sampling and of replay, beside RLlib."""
