"""Distribution-aligned sequence distillation on Megatron-Core (method: arXiv 2601.09088)."""

__version__ = "0.2.0"
