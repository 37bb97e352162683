"""Predicts with adapted weights."""
