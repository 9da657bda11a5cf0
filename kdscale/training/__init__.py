"""Training: one fit loop, two engines, objectives as pure functions, checkpoints that a kill cannot tear."""
