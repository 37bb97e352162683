"""Meta-training: finds a start from which adapting is fast."""
