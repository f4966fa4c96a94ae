"""What surrounds a turn: what the model is told, what its items hold, how long it may be silent, what went wrong."""
