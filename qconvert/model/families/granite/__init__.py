"""IBM's Granite."""
