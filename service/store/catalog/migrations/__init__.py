"""The steps that make and change the catalog's tables; ``migrate.py`` runs them. A released step is never edited."""
