"""Quantized safetensors in the layouts of the compressed-tensors package: what is planned."""
