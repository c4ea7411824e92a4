"""What happens in time: each kind of event, and the loop that runs them in order."""
