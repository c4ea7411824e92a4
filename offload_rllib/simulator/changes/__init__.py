"""What changes in an episode by itself: rates that follow a schedule, and nodes that move."""
