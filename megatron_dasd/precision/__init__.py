"""Training in FP8: recipes, what they need, and their numerics emulated without a GPU."""
