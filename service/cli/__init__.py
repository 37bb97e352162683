"""The command line, `anole`. `main.py` assembles the commands; each other file holds the commands of one kind."""
