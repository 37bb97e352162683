"""The bodies of the command line's commands, one file a kind of work. `cli.py` puts them together."""
