"""Weights that other libraries than compressed-tensors have quantized, read as plain numbers."""
