"""The Llama models, and what is built alike."""
