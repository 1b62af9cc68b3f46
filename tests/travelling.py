"""An executor whose jobs, items and results travel as they would to another process."""

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any


def sent(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


class Travelling:
    """One worker, which gets copies and gives copies back."""

    def map(
        self, job: Callable[[Any], Any], items: Iterable[Any], ahead: int | None = None
    ) -> Iterator[Any]:
        there, source = sent(job), iter(items)
        under_way: deque[Any] = deque()
        while True:
            under_way.extend(sent(item) for item in islice(source, (ahead or 4) - len(under_way)))
            if not under_way:
                return
            yield sent(there(under_way.popleft()))
