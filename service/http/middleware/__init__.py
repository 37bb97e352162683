"""ASGI middleware: authentication, limits and logging."""
