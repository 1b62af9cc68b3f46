"""What is left of a model: sizes, masks, tensors and the configuration of a smaller one."""
