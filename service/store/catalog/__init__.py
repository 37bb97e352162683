"""The catalog: clients, versions, aliases and keys in a SQL database."""
