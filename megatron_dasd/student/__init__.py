"""The student's own log-probabilities, by Megatron's forward pass."""
