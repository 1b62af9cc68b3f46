"""Qwen, one file for each class or two that are alike."""
