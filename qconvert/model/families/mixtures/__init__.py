"""Mixtures of experts of single makers."""
