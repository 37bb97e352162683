"""Meta-training: Reptile, MAML and FOMAML, training runs, evaluation."""
