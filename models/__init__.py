"""Few-shot learning: tasks, nets, the inner loop, Reptile, checkpoints and data. No web, database or environment."""
