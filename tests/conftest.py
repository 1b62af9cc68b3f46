"""What the process of the tests has in common."""

import gc

gc.set_threshold(100_000, 50, 100)
"""torch and transformers are millions of objects that stay, and need not be looked through."""
