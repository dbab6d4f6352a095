"""The results of a map whose calls are partly answered from a cache.

runs of calls:  answered │ not │ answered │ not     ─► their results, in the order of the calls
batches:                  └─ of all that are not ─┘
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from pympipool._core.sequences import ConsumingIterator

if TYPE_CHECKING:
    from pympipool.execution.interfaces import MapAnswers

__all__ = ["merged"]


def merged(
    answers: MapAnswers, batches: Iterator[tuple[Any, Any]], *, unordered: bool = False
) -> Generator[tuple[Any, Any], None, None]:
    """Yield results as `Results` takes them: a list of some, and the parts of the exception that came after them or None.

    Args:
        answers: The results of the calls that are answered.
        batches: Yields the results of the others.
        unordered: Yield what is answered first.
    """
    if unordered:
        yield from ((answers.results(begin, end), None) for is_answered, begin, end in answers.runs() if is_answered)
        yield from batches
        return
    rest, left, error = _taking([]), 0, None
    for is_answered, begin, end in answers.runs():
        if is_answered:
            yield answers.results(begin, end), None
            continue
        missing = end - begin
        while missing:
            if left == 0:
                if error is not None:
                    yield [], error
                results, error = next(batches)
                rest, left = _taking(results), len(results)
                del results
            count = min(missing, left)
            yield list(islice(rest, count)), None
            missing, left = missing - count, left - count


def _taking(results: Any) -> Iterator[Any]:
    """Return an iterator over results that keeps none that was taken."""
    return ConsumingIterator(iter([results])) if type(results) is list else iter(results)
