"""DeepSeek, and what has its latent attention."""
