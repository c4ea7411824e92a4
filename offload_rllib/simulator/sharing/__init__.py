"""What is shared equally by those that use it at once: the cores of a node, the channel of links."""
