"""Encoders: embeddings and scores of pairs."""
