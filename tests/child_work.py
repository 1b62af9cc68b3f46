"""What `tests/evaluation/test_child.py` has done in a process of its own."""

import ctypes
import os
import sys
import time

from qconvert.errors import PlanError
from qconvert.evaluation.runtimes.child import serve


def work(request, tell):
    what = request["do"]
    if what == "print":
        print("noise", flush=True)
        os.write(1, b"more noise\n")
        tell({"step": "one"})
        tell({"step": "two"})
    elif what == "crash":
        os.write(2, b"GGML_ASSERT(rows > 0) failed\n")
        ctypes.string_at(0)
    elif what == "exit":
        os._exit(7)
    elif what == "refuse":
        raise PlanError("it does not fit", "take another")
    elif what == "stumble":
        raise ZeroDivisionError("a fault")
    elif what == "sleep":
        tell({"pid": os.getpid()})
        time.sleep(600)
    return {"seen": request, "modules": "torch" in sys.modules}


if __name__ == "__main__":
    serve(work)
