"""The inner loop: adapts a net to the support sets of many tasks at once."""
