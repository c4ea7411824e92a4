"""One run as a Ray Tune experiment: configuration, callbacks, status, interruption, recovery."""
