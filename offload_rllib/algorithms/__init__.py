"""What learns: algorithms on RLlib's new API stack."""
