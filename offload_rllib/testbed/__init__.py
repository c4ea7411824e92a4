"""The testbed: the nodes of an environment as processes, and their task logs beside those of the simulator."""
