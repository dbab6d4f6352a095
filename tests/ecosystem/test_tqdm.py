"""tqdm: progress bars over `map` and futures of an executor, and helpers as in `tqdm.contrib.concurrent`."""

from __future__ import annotations

import io
from concurrent.futures import as_completed

import pytest

from ecosystem.calls import fail_at, square
from ecosystem.needs import package

tqdm = package("tqdm").tqdm


def test_a_bar_over_map_counts_the_results(executor):
    output = io.StringIO()
    assert list(tqdm(executor.map(square, range(12)), total=12, file=output)) == [i * i for i in range(12)]
    assert "12/12" in output.getvalue()


def test_a_bar_over_as_completed_counts_the_calls(executor):
    output = io.StringIO()
    calls = [executor.submit(square, i) for i in range(6)]
    assert {call.result() for call in tqdm(as_completed(calls), total=6, file=output)} == {0, 1, 4, 9, 16, 25}
    assert "6/6" in output.getvalue()


def test_a_bar_moved_by_callbacks_counts_the_calls(executor):
    output = io.StringIO()
    with tqdm(total=6, file=output) as bar:
        calls = [executor.submit(square, i) for i in range(6)]
        for call in calls:
            call.add_done_callback(lambda _: bar.update())
        executor.submit(square, 1).result()
        assert [call.result() for call in calls] == [0, 1, 4, 9, 16, 25]


def process_map(executor, function, *iterables, **options):
    """Do the same as `tqdm.contrib.concurrent.process_map`, on an existing executor."""
    chunksize = options.pop("chunksize", None)
    return list(tqdm(executor.map(function, *iterables, chunksize=chunksize), total=len(iterables[0]), **options))


@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_process_map_has_its_bar_and_its_results(executor, chunksize):
    output = io.StringIO()
    results = process_map(executor, square, range(10), chunksize=chunksize, desc="squares", file=output)
    assert results == [i * i for i in range(10)]
    assert "squares: 100%" in output.getvalue()


def test_a_bar_stops_where_a_call_raises(executor):
    output = io.StringIO()
    with pytest.raises(ArithmeticError, match="no result for 3"):
        process_map(executor, fail_at, range(6), [3] * 6, file=output)
    assert "3/6" in output.getvalue()
