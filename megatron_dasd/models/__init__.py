"""The student as Megatron sees it: architecture from a Hugging Face config, layers, start-up."""
