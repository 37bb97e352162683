"""Exports of one version: a file that takes an ordinary image and gives what the service gives for it."""
