"""A call runs its function as it is at the moment of submission, wherever it was defined.

Functions of a script or notebook live in `__main__` and change while the program runs: they are redefined, and so are
the names that they refer to. A worker that cached an old version would return wrong results without any error.
"""

import sys

import pytest

from support.calls import square
from support.scripts import run_script

# Only workers that live longer than a call could cache an old function.
pytestmark = pytest.mark.anywhere(block_allocation=[True])


class Notebook:
    """A namespace like that of a notebook, in which cells of source run one after the other."""

    def __init__(self):
        self.namespace = {"__name__": "__main__", "__builtins__": __builtins__}

    def run(self, cell):
        exec(cell, self.namespace)

    def __getitem__(self, name):
        return self.namespace[name]


@pytest.fixture
def notebook():
    return Notebook()


CHANGES = {
    "the function": ("def f(): return 1", "def f(): return 2"),
    "a global number": ("x = 1\ndef f(): return x", "x = 2"),
    "a global that was missing": (
        "def f():\n try: return x\n except NameError: return 1",
        "x = 2",
    ),
    "a global list, by rebinding": ("x = [1]\ndef f(): return x[0]", "x = [2]"),
    "a global list, in place": ("x = [1]\ndef f(): return x[0]", "x[0] = 2"),
    "a global dict, in place": ("x = {'a': 1}\ndef f(): return x['a']", "x['a'] = 2"),
    "an attribute of a global object": (
        "class A: pass\nx = A()\nx.a = 1\ndef f(): return x.a",
        "x.a = 2",
    ),
    "a function that it calls": ("def g(): return 1\ndef f(): return g()", "def g(): return 2"),
    "a function called by one that it calls": (
        "def h(): return 1\ndef g(): return h()\ndef f(): return g()",
        "def h(): return 2",
    ),
    "a global of a function that it calls": ("x = 1\ndef g(): return x\ndef f(): return g()", "x = 2"),
    "a function it calls in a nested function": (
        "def g(): return 1\ndef f():\n def inner(): return g()\n return inner()",
        "def g(): return 2",
    ),
    "a class that it uses": ("class A: a = 1\ndef f(): return A().a", "class A: a = 2"),
    "an attribute of a class that it uses": ("class A: a = 1\ndef f(): return A().a", "A.a = 2"),
    "a default": ("def f(x=1): return x", "f.__defaults__ = (2,)"),
    "a default in place": ("def f(x=[1]): return x[0]", "f.__defaults__[0][0] = 2"),
    "a keyword default": ("def f(*, x=1): return x", "f.__kwdefaults__['x'] = 2"),
    "an attribute of the function": ("def f(): return f.a\nf.a = 1", "f.a = 2"),
    "its code": ("def f(): return 1\ndef g(): return 2", "f.__code__ = g.__code__"),
    "a closure": (
        "def make():\n x = 1\n def f(): return x\n def change():\n  nonlocal x\n  x = 2\n return f, change\nf, change = make()",
        "change()",
    ),
    "a closure in place": (
        "def make():\n x = [1]\n def f(): return x[0]\n def change(): x[0] = 2\n return f, change\nf, change = make()",
        "change()",
    ),
    "a builtin that is shadowed": ("def f(): return len('x')", "def len(_): return 2"),
    "a module under the same name": (
        "import math as m\ndef f(): return int(m.floor(1.5))",
        "import types\nm = types.SimpleNamespace(floor=lambda _: 2)",
    ),
    "a lambda": ("f = lambda: 1", "f = lambda: 2"),
    "a decorator": (
        "n = 1\ndef fixed(_): return lambda: n\n@fixed\ndef f(): pass",
        "n = 2",
    ),
    "a partial": ("from functools import partial\ndef g(x): return x\nf = partial(g, 1)", "f = partial(g, 2)"),
    "what a partial calls": (
        "from functools import partial\nn = 1\ndef g(): return n\nf = partial(g)",
        "n = 2",
    ),
    "an instance whose method is called": (
        "class A:\n def __init__(self): self.a = 1\n def get(self): return self.a\nx = A()\nf = x.get",
        "x.a = 2",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_between_two_submissions_is_seen(executor, notebook, what):
    before, change = CHANGES[what]
    notebook.run(before)
    assert [executor.submit(notebook["f"]).result() for _ in range(3)] == [1, 1, 1]
    notebook.run(change)
    assert [executor.submit(notebook["f"]).result() for _ in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_after_the_submission_is_not_seen(make_executor, notebook, gate, what):
    from support.calls import hold

    before, change = CHANGES[what]
    notebook.run(before)
    exe = make_executor()
    exe.submit(hold, gate.path)
    gate.wait_until_begun()
    calls = [exe.submit(notebook["f"]) for _ in range(3)]
    notebook.run(change)
    calls += [exe.submit(notebook["f"]) for _ in range(3)]
    gate.open()
    assert [call.result() for call in calls] == [1, 1, 1, 2, 2, 2]


def test_changed_globals_do_not_reach_next_call(executor, notebook):
    notebook.run("n = 0\ndef f():\n global n\n n += 1\n return n")
    assert [executor.submit(notebook["f"]).result() for _ in range(4)] == [1] * 4


def test_changed_defaults_do_not_reach_next_call(executor, notebook):
    notebook.run("def f(x=[]):\n x.append(1)\n return len(x)")
    assert [executor.submit(notebook["f"]).result() for _ in range(4)] == [1] * 4


def test_recursive_function_can_be_submitted(executor, notebook):
    notebook.run("def f(n): return 1 if n < 2 else n * f(n - 1)")
    assert executor.submit(notebook["f"], 5).result() == 120


def test_mutually_recursive_functions_can_be_submitted(executor, notebook):
    notebook.run("def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n > 0 and even(n - 1)")
    assert executor.submit(notebook["even"], 10).result() is True


def test_notebook_class_instances_keep_their_class(executor, notebook):
    notebook.run("class Point:\n def __init__(self, x): self.x = x\ndef move(point): return Point(point.x + 1)")
    result = executor.submit(notebook["move"], notebook["Point"](1)).result()
    assert isinstance(result, notebook["Point"])
    assert result.x == 2


def test_notebook_enum_members_keep_their_identity(executor, notebook):
    notebook.run("import enum\nclass Colour(enum.Enum):\n  RED = 1\ndef f(x): return x")
    red = notebook["Colour"].RED
    assert executor.submit(notebook["f"], red).result() is red


def test_a_returned_function_can_be_submitted_again(executor, notebook):
    notebook.run("def make(n): return lambda x: x + n")
    made = executor.submit(notebook["make"], 3).result()
    assert made(1) == 4
    assert executor.submit(made, 1).result() == 4


def test_functions_beyond_cache_size_do_not_mix(make_block_executor, notebook):
    exe = make_block_executor(max_workers=2)
    notebook.run("".join(f"def f{i}(x): return x + {i}\n" for i in range(600)))
    for _ in range(2):
        calls = [exe.submit(notebook[f"f{i}"], 1000) for i in range(600)]
        assert [call.result() for call in calls] == [1000 + i for i in range(600)]


def test_short_lived_functions_do_not_mix(executor, notebook):
    for i in range(1000):
        notebook.run(f"def f(x): return x + {i}")  # probably at the memory address of the previous one
        assert executor.submit(notebook["f"], 1).result() == 1 + i


def test_each_call_sees_changed_global(executor, notebook):
    notebook.run("def f(): return n")
    calls = []
    for n in range(2000):
        notebook.run(f"n = {n}")
        calls.append(executor.submit(notebook["f"]))
    assert [call.result() for call in calls] == list(range(2000))


def test_importable_functions_are_sent_by_name(executor):
    assert executor.submit(lambda: square.__module__).result() == "support.calls"
    assert executor.submit(square, 3).result() == 9


# ---- whole scripts ----

HELPER = """
OFFSET = 100

def shifted(x):
    return x + OFFSET

class Model:
    def __init__(self, x):
        self.x = x
    def __eq__(self, other):
        return isinstance(other, Model) and other.x == self.x
"""

SCRIPT = """
import os
from dataclasses import dataclass

import helper
from helper import Model, shifted
from package.inner import deep
from pympipool import Executor

@dataclass
class Point:
    x: int

def move(point):
    return Point(point.x + helper.OFFSET)

def main():
    with Executor(max_workers=1, block_allocation=True) as exe:
        assert exe.submit(shifted, 1).result() == 101
        assert exe.submit(lambda m: Model(m.x + 1), Model(1)).result() == Model(2)
        assert exe.submit(move, Point(1)).result() == Point(101)
        assert exe.submit(deep).result() == "deep"
        assert exe.submit(os.getcwd).result() == os.getcwd()
        print("fine")

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def project(tmp_path):
    """Return a folder like that of a user: a script with modules and a package beside it."""
    folder = tmp_path / "project"
    (folder / "package").mkdir(parents=True)
    (folder / "helper.py").write_text(HELPER)
    (folder / "package" / "__init__.py").touch()
    (folder / "package" / "inner.py").write_text("def deep(): return 'deep'")
    return folder


def test_modules_beside_the_script_can_be_used(project):
    assert run_script(SCRIPT, project) == "fine\n"


def test_sibling_modules_import_from_another_folder(project, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert run_script(SCRIPT, project, cwd=elsewhere) == "fine\n"


def test_sibling_modules_shadow_modules_in_working_folder(project, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "helper.py").write_text("raise ImportError('the wrong helper')")
    (elsewhere / "pickle.py").write_text("raise ImportError('the wrong pickle')")
    assert run_script(SCRIPT, project, cwd=elsewhere) == "fine\n"


def test_script_by_relative_path_finds_its_modules(project, tmp_path):
    assert run_script(SCRIPT, project, cwd=tmp_path, command=["project/script.py"]) == "fine\n"


def test_script_after_chdir_finds_its_modules(project, tmp_path):
    script = f"import os\nos.chdir({str(tmp_path)!r})\n" + SCRIPT
    assert run_script(script, project, cwd=project, command=["script.py"]) == "fine\n"


def test_script_run_as_module_finds_its_modules(project):
    assert run_script(SCRIPT, project, command=["-m", "script"]) == "fine\n"


def test_command_line_script_finds_modules_of_its_folder(project):
    assert run_script(SCRIPT, project, command=["-c", SCRIPT]) == "fine\n"


def test_path_added_by_script_holds_in_workers(project, tmp_path):
    script = f"import sys\nsys.path.insert(0, {str(project)!r})\n" + SCRIPT
    assert run_script(script, tmp_path) == "fine\n"


def test_workers_do_not_rerun_script_without_guard(tmp_path):
    script = """
from pympipool import Executor
print("once")
with Executor(max_workers=2, block_allocation=True) as exe:
    print(list(exe.map(lambda x: x + 1, range(3))))
"""
    assert run_script(script, tmp_path) == "once\n[1, 2, 3]\n"


def test_script_name_is_the_same_in_workers(tmp_path):
    script = """
import sys
from pympipool import Executor
with Executor(max_workers=1, block_allocation=True) as exe:
    assert exe.submit(lambda: sys.argv[0]).result() == sys.argv[0]
"""
    run_script(script, tmp_path)


def test_interpreter_flags_hold_in_workers(tmp_path):
    script = """
import sys
from pympipool import Executor
with Executor(max_workers=1, block_allocation=True) as exe:
    print(exe.submit(lambda: (sys.flags.optimize, sys.flags.utf8_mode)).result())
"""
    assert run_script(script, tmp_path, command=["-OO", "-X", "utf8", "script.py"]) == "(2, 1)\n"


def test_workers_use_the_same_interpreter(executor):
    assert executor.submit(lambda: (sys.executable, sys.version)).result() == (sys.executable, sys.version)
