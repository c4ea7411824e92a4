"""A slow reference of the simulator in simpy: the same semantics, told as the lives of tasks instead of an event loop.

It shares with the simulator the random streams (so that both see the same workload) and nothing else: it reads the
configuration, not the simulator's arrays. Every task is a process that lives through holding, waiting, service,
transfers and return; clients, agents, deadlines and failures are processes beside it. A link with contention is a
resource that transfers queue for, and energy is metered as things go on and off.

From the ground: `clock`, `sharing`, `parts`, `network`, `ticks`, `transfers`, `lives`, `episode`; each adds its concept
to the one before. `arrivals`, `draws` and `routes` stand beside them.
"""
