"""Gemma, one file for each generation."""
