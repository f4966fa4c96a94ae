"""What surrounds a turn of the agent: what the model is told, how long it may be silent, what went wrong, in words."""
