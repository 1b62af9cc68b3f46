"""What the processes of the tests have in common."""

import gc
import os

from hypothesis import settings

# Two of them run side by side, on two cores: each computes on one. A test that asks for more says
# so itself.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

gc.set_threshold(100_000, 50, 100)
"""torch and transformers are millions of objects that stay, and need not be looked through."""

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
"""An example may be the one that compiles a kernel."""
