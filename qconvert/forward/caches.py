"""Keys and values as attention hands them to its cache: turned by rotary positions, and where
queries and keys are normalized, behind that.

transformers gives them to whatever is passed as `past_key_values`; here something is passed that
shows them, and keeps nothing. Whatever implementation of attention runs, they are the same.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

See = Callable[[Any, Any], None]
"""Called with keys and values, each [windows, heads, tokens, size]."""

NAME = "past_key_values"


class _Shown:
    """Stands for a cache that is empty and stays so."""

    def __init__(self, see: See) -> None:
        self._see = see

    def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._see(keys, values)
        return keys, values

    def get_seq_length(self, *args: Any) -> int:
        return 0


@contextmanager
def shown(block: Any, see: See) -> Iterator[None]:
    """Have the keys and values of a block's attention shown.

    Args:
        block: transformers' module.
    """

    def before(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {**kwargs, NAME: _Shown(see)}

    modules = [module for module in block.modules() if _attends(module)]
    handles = [
        module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
        for module in modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attends(module: Any) -> bool:
    """Whether a module is attention that fills a cache."""
    is_attention = "attention" in type(module).__name__.lower()
    return is_attention and NAME in inspect.signature(module.forward).parameters
