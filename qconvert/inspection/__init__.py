"""What `inspect` tells, for each kind of thing that it is shown."""

from qconvert.inspection.checkpoint import Inspection, look_at

__all__ = ["Inspection", "look_at"]
