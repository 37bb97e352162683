"""The learning half: tasks, nets, the inner loop, Reptile, checkpoints, data. It knows no web, database or cloud."""
