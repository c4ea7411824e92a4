"""Which Ray a command works on, what its nodes can do, and where processes are placed."""
