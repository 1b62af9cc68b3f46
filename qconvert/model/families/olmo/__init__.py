"""Ai2's OLMo."""
