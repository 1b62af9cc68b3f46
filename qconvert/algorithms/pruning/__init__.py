"""What in a model does least: scores of its parts, and masks of its weights."""
