"""One warning for each function that sends the same large data with each call."""

import warnings

import numpy as np
import pytest

from pympipool import Executor
from pympipool.execution import large_payloads

SIZE = 20_000
"""Numbers in an array that counts as large here."""


@pytest.fixture(autouse=True)
def low_limit(monkeypatch):
    for module in ("large_payloads", "sending"):
        monkeypatch.setattr(f"pympipool.execution.{module}.LARGE_BYTES", 100_000)


@pytest.fixture(params=[True, False], ids=["block", "call"])
def exe(request):
    with Executor(max_workers=1, block_allocation=request.param, backend="mpi") as exe:
        yield exe


def warned(function):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function()
    return [(str(one.message), one.filename) for one in found]


def make_window():
    data = np.zeros(SIZE)

    def window(i):
        return float(data[i])

    return window


def item(array, i=0):
    return float(array[i])


class Model:
    def __init__(self):
        self.data = np.zeros(SIZE)

    def predict(self, i):
        return float(self.data[i])


REMEDY = "with each call: pass a handle, pympipool.share(...), or load it in init_function (with block_allocation=True)"


@pytest.mark.parametrize(("function", "name"), [(make_window(), "window"), (Model().predict, "Model.predict")])
def test_data_of_a_function_is_named_once(exe, function, name):
    found = warned(lambda: [exe.submit(function, i).result() for i in range(4)])
    assert [(message.replace("161", "160"), file) for message, file in found] == [
        (f"{name}() carries data, 160 kB, {REMEDY}", __file__)
    ]


def test_the_same_array_is_named_once(exe):
    array = np.zeros(SIZE)
    found = warned(lambda: [exe.submit(item, array, i=i).result() for i in range(4)])
    assert found == [(f"item() gets the same data, 160 kB, {REMEDY}", __file__)]


def test_data_of_a_mapped_function_is_named(exe):
    function = make_window()
    found = warned(lambda: list(exe.map(function, range(8), chunksize=2)))
    assert [message.replace("161", "160") for message, _ in found] == [f"window() carries data, 160 kB, {REMEDY}"]
    assert found[0][1] == __file__


def test_other_large_arrays_are_not_named(exe):
    assert warned(lambda: [exe.submit(item, np.full(SIZE, float(i))).result() for i in range(4)]) == []
    assert warned(lambda: list(exe.map(item, [np.zeros(SIZE) for _ in range(4)]))) == []


def test_two_large_calls_are_not_named(exe):
    function, array = make_window(), np.zeros(SIZE)
    assert warned(lambda: [exe.submit(function, 1).result() for _ in range(2)]) == []
    assert warned(lambda: [exe.submit(item, array).result() for _ in range(2)]) == []


def test_raised_warning_fails_the_call(exe):
    function = make_window()
    assert [exe.submit(function, 1).result() for _ in range(2)] == [0.0, 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = exe.submit(function, 1).exception()
    assert isinstance(error, UserWarning)
    assert exe.submit(function, 1).result() == 0.0


def test_few_functions_are_remembered(monkeypatch):
    monkeypatch.setattr(large_payloads, "FUNCTIONS_MAX", 2)
    payloads = large_payloads.LargePayloads()
    for name in "abc":
        function = make_window()
        function.__qualname__ = name
        payloads.share_or_warn(function, (), {}, [bytes(200_000)])
    assert len(payloads._seen) <= 2
