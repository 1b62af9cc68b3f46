"""Families of the first years."""
