"""Hidden states of which blocks have several copies (Gemma 3n's AltUp): transformers has them in
front of each other, files beside each other, so that all else sees one wider stream.

    [copies, windows, window, hidden]  <->  [windows, window, copies * hidden]
"""

from typing import Any


def copies_of(config: Any) -> int:
    """How many there are; 1 for most models.

    Args:
        config: transformers' configuration.
    """
    return int(getattr(config, "altup_num_inputs", 1))


def joined(hidden: Any, copies: int) -> Any:
    """As files have them."""
    return hidden if copies == 1 else hidden.permute(1, 2, 0, 3).flatten(2)


def apart(hidden: Any, copies: int) -> Any:
    """As blocks have them."""
    if copies == 1:
        return hidden
    return hidden.unflatten(2, (copies, -1)).permute(2, 0, 1, 3)
