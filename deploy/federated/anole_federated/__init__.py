"""Federated Reptile on Flower. `models.meta.federated` is what it runs."""
