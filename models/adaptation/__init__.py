"""Adaptation: inner loops over many tasks at once."""
