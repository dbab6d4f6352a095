"""Workflow managers such as pyiron_workflow: methods of dynamic classes run on workers, callbacks start the next nodes.

They submit bound methods of objects that no worker can import. A done callback puts the result into the object and
starts the dependent nodes.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from support.calls import hold


def make_node_class(name, function):
    """Return a new class for each function, as decorators of workflow managers do."""

    class Node:
        def __init__(self, *arguments):
            self.arguments = arguments
            self.result = None
            self.error = None
            self.followers = []
            self.ended = threading.Event()

        def __getstate__(self):
            return {"arguments": self.arguments}  # holds no objects that must stay in the master

        def __setstate__(self, state):
            self.arguments = state["arguments"]

        def compute(self):
            return function(*self.arguments)

        def run_on(self, executor):
            call = executor.submit(self.compute)
            call.add_done_callback(self.finish)
            return call

        def finish(self, call):
            try:
                self.result = call.result()
            except (Exception, CancelledError) as error:
                self.error = error
            for follow in self.followers:
                follow(self.result)
            self.ended.set()

    return type(name, (Node,), {"function": staticmethod(function)})


def test_method_of_dynamic_class_runs_on_worker(executor):
    Add = make_node_class("Add", lambda a, b: a + b)  # noqa: N806
    node = Add(1, 2)
    assert node.run_on(executor).result() == 3
    assert node.ended.wait(60)
    assert node.result == 3


def test_objects_of_dynamic_classes_arrive_both_ways(executor):
    class Structure:
        def __init__(self, atoms):
            self.atoms = atoms

        def repeat(self, times):
            return Structure(self.atoms * times)

    assert executor.submit(Structure(2).repeat, 3).result().atoms == 6
    assert executor.submit(lambda structure: structure.atoms, Structure(4)).result() == 4


def test_exceptions_of_dynamic_classes_keep_their_attributes(executor):
    class NotConverged(RuntimeError):
        def __init__(self, steps):
            super().__init__(f"not converged after {steps} steps")
            self.steps = steps

    def raise_it():
        raise NotConverged(7)

    node = make_node_class("Failing", raise_it)()
    with pytest.raises(RuntimeError, match="not converged after 7 steps"):
        node.run_on(executor).result()
    assert node.ended.wait(60)
    assert node.error.steps == 7


def test_callbacks_start_dependent_nodes(executor):
    Square = make_node_class("Square", lambda x: x * x)  # noqa: N806
    first, last = Square(3), Square(None)

    def go_on(result):
        last.arguments = (result,)
        last.run_on(executor)

    first.followers.append(go_on)
    first.run_on(executor)
    assert last.ended.wait(60)
    assert last.result == 81


def test_cancelled_node_is_notified(make_executor, gate):
    executor = make_executor(1)
    held = executor.submit(hold, gate.path, "held")
    gate.wait_until_begun()
    node = make_node_class("Waiting", lambda: None)()
    assert node.run_on(executor).cancel()
    assert node.ended.wait(60)
    assert isinstance(node.error, CancelledError)
    gate.open()
    assert held.result() == "held"


def test_futures_can_form_a_graph_of_nodes(executor):
    Add = make_node_class("Add", lambda a, b: a + b)  # noqa: N806
    sums = [executor.submit(Add(i, i).compute) for i in range(3)]
    total = executor.submit(sum, sums)
    assert total.result() == 6
