"""A testbed: every node of an environment as a process with its own clock, queue, servers and sockets."""
