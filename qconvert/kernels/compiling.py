"""Whether kernels are compiled or found where an earlier run has kept them: Numba tells it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event


@contextmanager
def when_compiling(tell: Callable[[], None]) -> Iterator[None]:
    """Tells once, where something is compiled inside; what is loaded is nothing to tell of."""
    is_told = False

    class Telling(event.Listener):  # type: ignore[misc]
        def on_start(self, started: Any) -> None:
            nonlocal is_told
            if not is_told:
                is_told = True
                tell()

        def on_end(self, ended: Any) -> None:
            pass

    with event.install_listener("numba:compile", Telling()):
        yield
