"""What changes the key of a call, and what does not: a cached result is never used for a function that does something else."""

import json
import os
import sys
from pathlib import Path

import pytest

from caching.staleness_project import FILES
from support.scripts import run_program

pytestmark = pytest.mark.timeout(
    1000
)  # the keys are made in one fixture: two sessions that fork for each of 90 projects

# Each change: a name, the file, the text in it, and what replaces it.
THAT_MATTER = [
    ("a constant in the code", "script.py", "value + 24", "value + 25"),
    ("the type of a constant: int to float", "script.py", "value + 24", "value + 24.0"),
    ("the type of a constant in a tuple: bool to int", "script.py", "(1, 2.0, True)", "(1, 2.0, 1)"),
    ("an operator", "script.py", "value + 24", "value - 24"),
    ("the sign of a zero", "script.py", "SCALE = 2\n", "SCALE = -0.0\n"),
    ("a method that is called", "script.py", "ARRAY.sum()", "ARRAY.max()"),
    ("the order of two statements", "script.py", "closed(x) + partly(x)", "partly(x) + closed(x)"),
    ("a nested function", "script.py", "lambda a: a + 25", "lambda a: a + 26"),
    ("an exception that is caught", "script.py", "except ValueError", "except TypeError"),
    ("a default", "script.py", "y=22", "y=23"),
    ("a default of a keyword", "script.py", "z=23", "z=24"),
    ("a default that is added", "script.py", "def f(x, y=22", "def f(x=0, y=22"),
    ("an attribute of the function", "script.py", "f.attribute = 26", "f.attribute = 27"),
    ("a global number", "script.py", "LATER = None", "LATER = 0"),
    ("a global that only a helper's helper names", "script.py", "SCALE = 2", "SCALE = 3"),
    ("the type of a global", "script.py", "SCALE = 2\n", "SCALE = 2.0\n"),
    ("an item of a global list", "script.py", "ITEMS = [1, 2, 3]", "ITEMS = [1, 2, 4]"),
    ("a global list that becomes a tuple", "script.py", "ITEMS = [1, 2, 3]", "ITEMS = (1, 2, 3)"),
    ("an item deep in a global dict", "script.py", '{"c": 2}', '{"c": 3}'),
    ("an item of a global set", "script.py", '{"x", "y", "z"}', '{"x", "y", "w"}'),
    ("the dtype of a global array", "script.py", "np.arange(5)", "np.arange(5.0)"),
    ("an item of a global array", "script.py", "np.arange(5)", "np.arange(1, 6)"),
    ("the shape of a global array", "script.py", "np.arange(5)", "np.arange(5)[None]"),
    ("the order of the items of a global array", "script.py", "[:, ::2][:, :2]", "[:, ::2][:, :2].T"),
    ("whether a global array may be written", "script.py", "np.arange(5)", "np.broadcast_to(np.arange(5), 5)"),
    ("one list twice in place of two", "script.py", "[[39], [39]]", "[[39]] * 2"),
    (
        "one bytearray twice in place of two",
        "script.py",
        'bytearray(b"39"), bytearray(b"39")',
        '*[bytearray(b"39")] * 2',
    ),
    ("the name of a function", "script.py", "another_name", "some_name"),
    ("the class that is registered with an abstract one", "script.py", "register(Alone)", "register(Other)"),
    ("a class that is not registered any more", "script.py", "Abstract.register(Alone)", ""),
    ("a helper", "script.py", "deeper(x) + 1", "deeper(x) + 2"),
    ("a helper's helper", "script.py", "x * SCALE", "x // SCALE"),
    ("a recursive helper", "script.py", "recursive(n - 1) + 5", "recursive(n - 1) + 6"),
    ("a method", "script.py", "x + self.offset", "x - self.offset"),
    ("a method of a base class", "script.py", "x * self.factor", "x / self.factor"),
    ("an attribute of a base class", "script.py", "factor = 3", "factor = 4"),
    ("the order of attributes of a class", "script.py", "factor = 3\n    another = 4", "another = 4\n    factor = 3"),
    ("a property", "script.py", "2 * self.offset", "3 * self.offset"),
    ("a static method", "script.py", "x - 8", "x - 9"),
    ("a class method", "script.py", "return cls(x)", "return cls(-x)"),
    ("a default of a method", "script.py", "offset=7", "offset=8"),
    ("the base classes", "script.py", "class Model(Base):", "class Model(Base, dict):"),
    ("the type in the brackets of a base class", "script.py", "Loader[int]", "Loader[float]"),
    ("a field of a dataclass", "script.py", "x: int = 9", "x: int = 10"),
    ("a factory of a field", "script.py", "default_factory=list", "default_factory=dict"),
    ("an option of a dataclass", "script.py", "@dataclasses.dataclass\n", "@dataclasses.dataclass(order=True)\n"),
    ("a member of an enum", "script.py", "RED = 11", "RED = 12"),
    ("a new member of an enum", "script.py", "RED = 11", "RED = 11\n    BLUE = 12"),
    ("the state of a global instance", "script.py", "Model(12)", "Model(13)"),
    ("a decorator", "script.py", "function(*args) + 13", "function(*args) + 14"),
    ("a decorated function", "script.py", "return x - 14", "return x - 15"),
    ("a decorator that is removed", "script.py", "@decorator\n", ""),
    ("a function in lru_cache", "script.py", "return x + 16", "return x + 17"),
    ("the default of singledispatch", "script.py", "return 17", "return 18"),
    ("an implementation of singledispatch", "script.py", "return 18", "return 19"),
    ("the type of an implementation", "script.py", "def _(x: int)", "def _(x: float)"),
    ("a variable of a closure", "script.py", "make(19)", "make(20)"),
    ("the code of a closure", "script.py", "return x + n", "return x - n"),
    ("an argument of a partial", "script.py", "exp=20", "exp=21"),
    ("the function of a partial", "script.py", "partial(pow, exp=20)", "partial(round, exp=20)"),
    ("a lambda", "script.py", "x * 21", "x * 22"),
    ("a module", "module.py", "CONSTANT + 30", "CONSTANT + 31"),
    ("another function of the module of a function", "module.py", "x + 31", "x + 32"),
    ("a module that a module imports", "imported.py", "32", "33"),
    ("a module that is imported when the call runs", "lazily.py", "33", "34"),
    ("a module that is imported by a function", "dynamically.py", "36", "39"),
    ("a module with a name of Python's", "profile.py", "37", "39"),
    ("the class of an object that is stored as its name", "singleton.py", "38", "39"),
    ("the class around a static method", "script.py", "value = 27", "value = 28"),
    ("a package", "package/__init__.py", "34", "35"),
    ("a module of a package", "package/part.py", "x + LEVEL", "x - LEVEL"),
    ("a module that a module of a package imports", "package/other.py", "35", "36"),
]

THAT_DO_NOT_MATTER = [
    ("a comment in the code", "script.py", "    nested = lambda", "    # a comment\n    nested = lambda"),
    ("a comment at the end of a line", "script.py", "value + 24 for", "value + 24 for  # a comment\n   "),
    ("a comment above the function", "script.py", "def f(", "# a comment\ndef f("),
    ("lines that are moved", "script.py", "import dataclasses", "\n\n\n\n\nimport dataclasses"),
    ("an empty line in the code", "script.py", "    nested = lambda", "\n    nested = lambda"),
    ("another name of the script", "script.py", "", ""),
    ("another folder", "script.py", "", ""),
    ("a line that is broken", "script.py", "SCALE = 2", "SCALE = (\n    2\n)"),
    ("parentheses", "script.py", "deeper(x) + 1", "(deeper(x) + 1)"),
    ("spaces", "script.py", "x * SCALE", "x  *  SCALE"),
    ("quotes", "script.py", '"c": 2', "'c': 2"),
    ("how a number is written", "script.py", "SCALE = 2", "SCALE = 0x2"),
    ("a constant that is computed", "script.py", "value + 24", "value + 4 * 6"),
    ("a global that is not used", "script.py", "SCALE = 2", "SCALE = 2\nUNUSED = 99"),
    ("a function that is not used", "script.py", "def f(", "def unused():\n    return 1\n\n\ndef f("),
    ("an import that is not used", "script.py", "import enum", "import enum\nimport json"),
    ("the order of definitions", "script.py", "def helper(x):\n    return deeper(x) + 1\n\n\n", ""),
    ("the order of a set", "script.py", '{"x", "y", "z"}', '{"z", "y", "x"}'),
    ("an annotation of a function", "script.py", "def deeper(x)", 'def deeper(x: "int") -> "int"'),
    (
        "annotations of a class that were read",
        "script.py",
        "MODEL = Model(12)",
        "Base.__annotations__\nMODEL = Model(12)",
    ),
    ("how a global is made", "script.py", "ITEMS = [1, 2, 3]", "ITEMS = list(range(1, 4))"),
    ("one tuple twice in place of two", "script.py", '(39, "39"), tuple([39, "39"])', '*[(39, "39")] * 2'),
    ("one number twice in place of two", "script.py", "np.float64(39), np.float64(39)", "*[np.float64(39)] * 2"),
    ("a copy of a global array", "script.py", "np.arange(5)", "np.arange(5)[:].copy()"),
    ("a list that was sorted", "script.py", "ITEMS = [1, 2, 3]", "ITEMS = sorted([3, 1, 2])"),
    ("a comment in a module", "module.py", "CONSTANT + 30", "CONSTANT + 30  # a comment"),
    ("lines of a module that are moved", "module.py", "def function", "\n\n\ndef function"),
    ("a module that nothing imports", "package/__init__.py", "", ""),
]
MOVED = "def helper(x):\n    return deeper(x) + 1\n\n\n"


def project(folder, name, file, old, new):
    """Write the files of the project with one change."""
    files = dict(FILES)
    assert old in files[file], f"{old!r} is not in {file}"
    files[file] = files[file].replace(old, new, 1)
    if name == "the order of definitions":
        files["script.py"] = files["script.py"].replace("class Base:", MOVED + "class Base:")
    if name == "another name of the script":
        files["other_script.py"] = files.pop("script.py")
    if name == "a module that nothing imports":
        files["package/nothing.py"] = "X = 1\n"
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return str(folder)


def keys_of(folders, hash_seed, tmp_path):
    """Return the keys of all projects, from an interpreter of its own."""
    program = Path(__file__).with_name("staleness_session.py")
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(program), *folders]
    done = run_program(command, env=environment, cwd=tmp_path, timeout_s=450)
    assert not done.stderr, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Return two dicts, one of each of two sessions: the key of each changed project by the name of the change."""
    tmp_path = tmp_path_factory.mktemp("staleness")
    changes = [("", "script.py", "", ""), *THAT_MATTER, *THAT_DO_NOT_MATTER]
    names = {project(tmp_path / f"{number}", *change): change[0] for number, change in enumerate(changes)}
    sessions = [keys_of(names, hash_seed, tmp_path) for hash_seed in ("1", "2")]
    return [{name: session[folder] for folder, name in names.items()} for session in sessions]


@pytest.mark.parametrize("change", [change[0] for change in THAT_MATTER])
def test_a_change_that_matters_changes_the_key(keys, change):
    assert keys[0][change] != keys[0][""]
    assert keys[0][change] == keys[1][change]


@pytest.mark.parametrize("change", [change[0] for change in THAT_DO_NOT_MATTER])
def test_a_change_without_effect_keeps_the_key(keys, change):
    assert keys[0][change] == keys[0][""]
    assert keys[0][change] == keys[1][change]


def test_each_change_has_a_key_of_its_own(keys):
    changed = [keys[0][change[0]] for change in THAT_MATTER]
    assert len(set(changed)) == len(changed)
