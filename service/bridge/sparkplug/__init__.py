"""Messages of Sparkplug B."""
