"""The verb `bench`: speed of sampling and of replay, compared with RLlib."""
