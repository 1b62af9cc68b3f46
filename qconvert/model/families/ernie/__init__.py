"""The ERNIE models."""
