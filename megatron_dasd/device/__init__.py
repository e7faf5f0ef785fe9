"""The machine: processes of a distributed program, and Megatron without a GPU."""
