from __future__ import annotations

import functools

import pytest

from pympipool.worker.injection import inject_arguments

INIT_VALUES = {"j": 4, "k": 3, "l": 2}


def test_missing_arguments_are_injected_others_ignored():
    assert inject_arguments(lambda i, j, k: (i, j, k), INIT_VALUES)(2, j=5) == (2, 5, 3)


def test_explicit_arguments_override_by_position_and_name():
    assert inject_arguments(lambda j, k: (j, k), INIT_VALUES)(10, k=11) == (10, 11)


def test_injected_values_override_defaults():
    assert inject_arguments(lambda j=0, k=0: (j, k), INIT_VALUES)() == (4, 3)


def test_keyword_only_parameters_are_injected():
    assert inject_arguments(lambda *args, k: (args, k), INIT_VALUES)(1, 2, 3) == ((1, 2, 3), 3)


def test_kwargs_get_nothing():
    assert inject_arguments(lambda i, **kwargs: (i, kwargs), INIT_VALUES)(1, k=7) == (1, {"k": 7})


def test_positional_only_parameters_get_nothing():
    def function(j, /, k):
        return j, k

    assert inject_arguments(function, INIT_VALUES)(1) == (1, 3)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'j'"):
        inject_arguments(function, INIT_VALUES)()


def test_methods_and_classes_get_injected_arguments():
    class Thing:
        def __init__(self, j):
            self.j = j

        def method(self, k):
            return self.j, k

    thing = inject_arguments(Thing, INIT_VALUES)()
    assert thing.j == 4
    assert inject_arguments(thing.method, INIT_VALUES)() == (4, 3)


def test_arguments_bound_by_partial_count_as_given():
    def function(i, j, k):
        return i, j, k

    assert inject_arguments(functools.partial(function, 1, k=7), INIT_VALUES)() == (1, 4, 7)


@pytest.mark.parametrize(
    ("function", "args", "result"), [(int, ("7",), 7), (max, (1, 2), 2), (dict.fromkeys, ("a",), {"a": None})]
)
def test_builtins_with_and_without_signature_work(function, args, result):
    assert (
        inject_arguments(function, {"x": 1, "default": 2, "base": 16} if function is not int else INIT_VALUES)(*args)
        == result
    )


def test_function_without_matching_parameters_is_not_wrapped():
    def function(x):
        return x

    assert inject_arguments(function, INIT_VALUES) is function
    assert inject_arguments(function, {}) is function


def test_calls_share_the_same_injected_objects():
    data = []
    append = inject_arguments(lambda x, data: data.append(x), {"data": data})
    append(1)
    append(2)
    assert data == [1, 2]


def test_wrong_arguments_raise_pythons_own_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        inject_arguments(lambda j: j, INIT_VALUES)(x=1)
