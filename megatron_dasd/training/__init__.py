"""Training through Megatron's own ``pretrain()``: data, loss and metrics of ours around it."""
