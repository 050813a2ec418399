"""What a machine is, what is missing on it, and what to do about it."""
