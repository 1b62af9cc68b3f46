"""NVIDIA's Nemotron."""
