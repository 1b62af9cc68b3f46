"""Algorithms: free functions on tensors, one a file."""
