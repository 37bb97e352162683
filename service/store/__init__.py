"""Where versions are kept: `ports` says what is needed of a store, `weight_store` writes in the right order."""
