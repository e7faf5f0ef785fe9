"""Checkpoints in and out: Hugging Face to Megatron's ``torch_dist`` and back."""
