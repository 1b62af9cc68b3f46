"""Quantized safetensors in the layouts of the compressed-tensors package: plan and configuration."""
