"""Where versions are kept. `VersionStore` writes in a safe order; ``ports.py`` defines what it needs of its parts."""
