"""How experience is gathered and kept: the batched EnvRunner, its fragments, replay."""
