"""Directories for mlx-lm: what is planned."""
