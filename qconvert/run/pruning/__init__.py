"""Checkpoints with fewer layers, neurons, heads, channels or experts, or with zeros."""
