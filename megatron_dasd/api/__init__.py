"""The Python API, as ``import megatron_dasd as dasd`` gives it; docs/api.md shows each function."""
