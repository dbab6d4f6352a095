"""Classes by value are pickled once, and unpickled once, and are never old: neither in the master nor in a worker."""

# ruff: noqa: E501  a scenario reads best on one line

from __future__ import annotations

import gc
import pickle
import sys
import threading
import weakref

import pytest

from pympipool._core.instances import definitions
from pympipool.serialization import definitions as definitions_module
from pympipool.serialization.payload import dump, dump_call, load
from support.freed_definitions import frees_definitions
from support.pickling import OtherProcess, define_in_main

DATACLASS = "from dataclasses import dataclass, field\n"

CACHEABLE = {
    "dataclass": f"{DATACLASS}@dataclass\nclass Kind:\n    x: int = 1\n    y: 'list[int]' = field(default_factory=list)\n    def m(self): return Kind(self.x + 1)\n",
    "frozen dataclass": f"{DATACLASS}@dataclass(frozen=True, order=True)\nclass Kind:\n    x: int = 1\n    name: str = field(default='a', metadata={{'unit': 'm'}})\n",
    "slots": f"{DATACLASS}@dataclass(slots=True)\nclass Kind:\n    x: int = 1\n",
    "types of fields": f"{DATACLASS}import typing\n@dataclass\nclass Kind:\n    a: typing.Optional[int] = None\n    b: 'int | None' = None\n    c: list[int] | None = None\n    d: typing.ClassVar[int] = 3\n    e: typing.Any = None\n    f: typing.Callable[[int], str] = str\n",
    "plain": "class Kind:\n    'doc'\n    made = 0\n    def __init__(self): self.x = 1\n    def __repr__(self): return f'Kind({self.x})'\n    def as_dict(self): return dict(vars(self))\n",
    "descriptors": "import functools\nclass Kind:\n    @property\n    def p(self): return 1\n    @classmethod\n    def c(cls): return cls\n    @staticmethod\n    def s(): return 2\n    @functools.cached_property\n    def f(self): return 3\n",
    "base": "class Base:\n    def m(self): return 1\nclass Kind(Base):\n    def m(self): return super().m() + 1\n",
    "mutual": "class Kind:\n    def m(self): return Other()\nclass Other:\n    def m(self): return Kind()\n",
    "helper": "import math\nN = 3\ndef helper(x): return x + N\nclass Kind:\n    def __init__(self): self.x = helper(math.pi)\n",
    "logger and pattern": "import logging, re\nlog = logging.getLogger('x')\nfind = re.compile('a+')\nclass Kind:\n    def m(self): log.debug(find)\n",
    "named tuple": "import typing\nclass Kind(typing.NamedTuple):\n    x: int = 1\n    def m(self): return self.x\n",
    "named tuple of collections": "import collections\nKind = collections.namedtuple('Kind', 'x y', defaults=(1, 2))\n",
    "enum": "import enum\nclass Kind(enum.Enum):\n    A = 1\n    B = 'b'\n    C = A\n    def m(self): return self.value\n",
    "flag": "import enum\nclass Kind(enum.IntFlag):\n    A = 1\n    B = 2\n",
    "enum as default": "import enum\nclass Colour(enum.Enum):\n    RED = 1\nclass Kind:\n    colour = Colour.RED\n    def m(self, colour=Colour.RED): return colour\n",
    "abc": "import abc\nclass Kind(abc.ABC):\n    @abc.abstractmethod\n    def m(self): ...\nKind.register(int)\n",
    "protocol": "import typing\nclass Kind(typing.Protocol):\n    def m(self) -> int: ...\n",
    "generic": "import typing\nT = typing.TypeVar('T')\nclass Kind(typing.Generic[T]):\n    def m(self) -> T: ...\n",
    "metaclass": "class Meta(type):\n    made = 0\n    def m(cls): return cls\nclass Kind(metaclass=Meta):\n    x = 1\n",
    "exception": "class Kind(ValueError):\n    def __init__(self, x=1):\n        super().__init__(x)\n        self.x = x\n",
    "local": "def outer():\n    n = 3\n    class Kind:\n        def m(self): return n, Kind\n    return Kind\nKind = outer()\n",
    "builtin base": "class Kind(dict):\n    def m(self): return len(self)\n",
    "list": "class Kind:\n    known = [1, [2]]\n",
    "dict and set": "class Kind:\n    known = {'a': [1, {2, 3}]}\n    names = {'x', 'y'}\n",
    "dict that contains itself": "class Kind:\n    known = {}\nKind.known['all'] = Kind.known\n",
    "base with a list": "class Base:\n    known = []\nclass Kind(Base): pass\n",
    "class with a list": "class Other:\n    known = []\nclass Kind:\n    def m(self): return Other\n",
    "registry": "class Kind:\n    known = {}\n    def __init_subclass__(cls): cls.known[cls.__name__] = cls\nclass Sub(Kind): pass\n",
    "instance": "class Other:\n    def __init__(self): self.x = [1]\nclass Kind:\n    other = Other()\n",
    "descriptor of the script": "class D:\n    def __set_name__(self, owner, name): self.owner, self.name = owner, name\n    def __get__(self, *_): return 1\nclass Kind:\n    x = D()\n",
    "partial functions": "import functools\ndef f(*x): return x\nclass Kind:\n    def m(self, x): return x\n    n = functools.partialmethod(m, 1)\n    p = staticmethod(functools.partial(f, [1], x=2))\n    q = functools.partial(f, [1], x=2)\n",
    "InitVar and ClassVar": f"{DATACLASS}import typing\n@dataclass\nclass Kind:\n    known: typing.ClassVar[dict] = {{'a': [1]}}\n    x: 'dataclasses.InitVar[int]' = 1\n    def __post_init__(self, x): pass\n".replace(
        "import typing", "import dataclasses, typing"
    ),
    "path": "import fractions, pathlib, uuid\nP = pathlib.Path('a')\nclass Kind:\n    ids = [uuid.UUID(int=1), fractions.Fraction(1, 2), pathlib.PurePosixPath('b')]\n    def m(self): return P\n",
}

NOT_CACHEABLE = {
    "global list": "L = []\nclass Kind:\n    def m(self): return L\n",
    "global that it writes": "N = 0\nclass Kind:\n    def m(self):\n        global N\n        N += 1\n",
    "function whose attribute it sets": "def helper(): pass\nhelper.n = 0\nclass Kind:\n    def m(self): helper.n += 1\n",
    "function that gets an attribute": "def helper(): pass\nclass Kind:\n    def m(self): helper.n = 1\n",
    "lock": "import threading\nclass Kind:\n    lock = threading.Lock()\n",
    "list of a base class": "class Base:\n    known = []\nclass Kind(Base):\n    known = Base.known\n",
    "list of another class": "class Other:\n    known = []\nclass Kind:\n    mine = Other.known\n    def m(self): return Other\n",
    "long list": "class Kind:\n    known = list(range(1000))\n",
    "instance that reduces itself": "class Other:\n    def __reduce__(self): return Other, ()\nclass Kind:\n    other = Other()\n",
    "partial function of a list": "import functools\nf = functools.partial(print, [])\nclass Kind:\n    def m(self): f()\n",
}


def settle(value) -> None:
    for _ in range(3):
        dump_call(1, max, (value,), {})


@pytest.mark.parametrize("source", CACHEABLE)
def test_class_has_one_definition_while_unchanged(other_process, source):
    names = define_in_main(CACHEABLE[source])
    kind = names["Kind"]
    settle(kind)
    definition = definitions[id(kind)]
    for _ in range(3):
        gc.collect()
        assert other_process.run(lambda kind: kind.__name__, kind) == "Kind"
        assert other_process.run(lambda kind: [kind], kind) == [kind]
    assert definitions[id(kind)] is definition
    assert definition.snapshot.is_current()


@pytest.mark.parametrize("source", NOT_CACHEABLE)
def test_class_that_can_change_unseen_has_none(other_process, source):
    names = define_in_main(NOT_CACHEABLE[source])
    settle(names["Kind"])
    assert id(names["Kind"]) not in definitions
    assert other_process.run(lambda kind: kind.__name__, names["Kind"]) == "Kind"


def test_list_that_a_function_may_change_gets_none(other_process, monkeypatch):
    names = define_in_main(
        "L = []\nclass Kind:\n    known = L\n    def m(self): self.known.append(1)\ndef call(one):\n    one.m()\n    return L\n"
    )
    monkeypatch.setattr(sys.modules["__main__"], "L", names["L"], raising=False)
    settle(names["Kind"])
    assert id(names["Kind"]) not in definitions
    for _ in range(3):
        assert other_process.run(names["call"], names["Kind"]()) == [1]


def test_inverted_flag_is_no_change_of_its_class():
    names = define_in_main("import enum\nclass Kind(enum.Flag):\n    A = 1\n    B = 2\n")
    kind = names["Kind"]
    for _ in range(3):
        dump(kind.A)
    number = definitions[id(kind)].number
    assert ~kind.A is kind.B
    dump(kind.A)
    assert definitions[id(kind)].number == number
    assert definitions[id(kind)].snapshot.is_current()
    kind.A.colour = "red"
    assert not definitions[id(kind)].snapshot.is_current()


def test_threads_agree_on_one_definition():
    kind = define_in_main("class Kind:\n    x = 1\n")["Kind"]
    dump(kind())
    numbers = set()

    def pickle_it():
        dump(kind())
        numbers.add(definitions[id(kind)].number)

    threads = [threading.Thread(target=pickle_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(numbers) == 1


def test_instances_need_no_new_definition(other_process):
    names = define_in_main(f"{CACHEABLE['dataclass']}def same(*some): return some\n")
    kind = names["Kind"]
    some = [kind(1), {"a": kind(2)}, (kind(3), kind), kind(4).m]
    for _ in range(5):
        first, second, third, method = other_process.run(names["same"], *some)
        assert [first, second["a"], third] == [kind(1), kind(2), (kind(3), kind)]
        assert type(first) is type(second["a"]) is third[1] is kind
        assert method() == kind(5)


# ---- changes in the master: run the source, then the edit; each call finds the class as the master has it ----

LOOK = "def look(*_): return [repr(VALUE)]\n"

EDITS = {
    "attribute": ("class Kind: x = 1", "Kind().x", "Kind.x = 2"),
    "attribute of equal value": ("class Kind: x = 1", "Kind().x", "Kind.x = True"),
    "attribute added": ("class Kind: pass", "getattr(Kind, 'x', None)", "Kind.x = 2"),
    "attribute deleted": ("class Kind: x = 1", "getattr(Kind, 'x', None)", "del Kind.x"),
    "method": ("class Kind:\n    def m(self): return 1", "Kind().m()", "Kind.m = lambda self: 2"),
    "code of a method": ("class Kind:\n    def m(self): return 1", "Kind().m()", "Kind.m.__code__ = (lambda self: 2).__code__"),
    "default of a method": ("class Kind:\n    def m(self, x=1): return x", "Kind().m()", "Kind.m.__defaults__ = (2,)"),
    "keyword default": ("class Kind:\n    def m(self, *, x=1): return x", "Kind().m()", "Kind.m.__kwdefaults__['x'] = 2"),
    "attribute of a method": ("class Kind:\n    def m(self): return 1\nKind.m.unit = 'm'", "Kind.m.unit", "Kind.m.unit = 'mm'"),
    "global of a method": ("N = 1\nclass Kind:\n    def m(self): return N", "Kind().m()", "N = 2"),
    "global of a property": ("N = 1\nclass Kind:\n    @property\n    def p(self): return N", "Kind().p", "N = 2"),
    "global of a classmethod": ("N = 1\nclass Kind:\n    @classmethod\n    def c(cls): return N", "Kind.c()", "N = 2"),
    "global of a cached property": ("import functools\nN = 1\nclass Kind:\n    @functools.cached_property\n    def p(self): return N", "Kind().p", "N = 2"),
    "global of a factory": (f"{DATACLASS}N = 1\n@dataclass\nclass Kind:\n    x: int = field(default_factory=lambda: N)", "Kind().x", "N = 2"),
    "helper": ("def h(): return 1\nclass Kind:\n    def m(self): return h()", "Kind().m()", "def h(): return 2"),
    "closure": ("def outer():\n    n = 1\n    class Kind:\n        def m(self): return n\n    def up():\n        nonlocal n\n        n = 2\n    return Kind, up\nKind, up = outer()", "Kind().m()", "up()"),
    "base": ("class Base: x = 1\nclass Kind(Base): pass", "Kind().x", "Base.x = 2"),
    "method of a base": ("class Base:\n    def m(self): return 1\nclass Kind(Base):\n    def m(self): return super().m()", "Kind().m()", "Base.m = lambda self: 2"),
    "bases": ("class Base: pass\nclass A(Base): x = 1\nclass B(Base): x = 2\nclass Kind(A): pass", "Kind().x", "Kind.__bases__ = (B,)"),
    "metaclass": ("class Meta(type): x = 1\nclass Kind(metaclass=Meta): pass", "Kind.x", "Meta.x = 2"),
    "class that it uses": ("class Other: x = 1\nclass Kind:\n    def m(self): return Other.x", "Kind().m()", "Other.x = 2"),
    "class that uses it": ("class Kind:\n    def m(self): return Other().m()\nclass Other:\n    x = 1\n    def m(self): return Kind, Other.x", "Kind().m()", "Other.x = 2"),
    "class that it uses, redefined": ("class Other: x = 1\nclass Kind:\n    def m(self): return Other.x", "Kind().m()", "class Other: x = 2"),
    "the class, redefined": ("class Kind: x = 1", "Kind().x", "class Kind: x = 2"),
    "annotation": (f"{DATACLASS}@dataclass\nclass Kind:\n    x: int = 1", "Kind.__annotations__", "Kind.__annotations__['x'] = str"),
    "field": (f"{DATACLASS}@dataclass\nclass Kind:\n    x: int = 1", "Kind.__dataclass_fields__['x'].type", "Kind.__dataclass_fields__['x'].type = str"),
    "metadata of a field": (f"{DATACLASS}M = {{'a': 1}}\n@dataclass\nclass Kind:\n    x: int = field(default=1, metadata=M)", "dict(Kind.__dataclass_fields__['x'].metadata)", "M['a'] = 2"),
    "registered subclass": ("import abc\nclass Kind(abc.ABC): pass", "isinstance(1, Kind)", "Kind.register(int)"),
    "attribute of an enum": ("import enum\nclass Kind(enum.Enum):\n    A = 1\n    def m(self): return 1", "Kind.A.m()", "Kind.m = lambda self: 2"),
    "attribute of a member": ("import enum\nclass Kind(enum.Enum):\n    A = 1\nKind.A.x = 1", "Kind.A.x", "Kind.A.x = 2"),
    "attribute to a list": ("class Kind: x = 1", "Kind.x", "Kind.x = [1]"),
    "list in place": ("class Kind: x = [1]", "Kind.x", "Kind.x.append(2)"),
    "item of a list": ("class Kind: x = [1]", "Kind.x", "Kind.x[0] = True"),
    "dict in place": ("class Kind: x = {'a': 1}", "Kind.x", "Kind.x['a'] = 2"),
    "set in place": ("class Kind: x = {1}", "Kind.x", "Kind.x.add(2)"),
    "nested in place": ("class Kind: x = {'a': [({1},)]}", "Kind.x", "Kind.x['a'][0][0].add(2)"),
    "attribute of an instance": ("class Other: pass\nclass Kind: x = Other()\nKind.x.y = 1", "Kind.x.y", "Kind.x.y = 2"),
    "class of an instance": ("class Other: y = 1\nclass Kind: x = Other()", "Kind.x.y", "Other.y = 2"),
    "keyword of a partial function": ("import functools\nclass Kind: x = functools.partial(dict, a=1)", "Kind.x()", "Kind.x.keywords['a'] = 2"),
    "slot": ("class Kind:\n    __slots__ = ('x',)\n    def m(self): return 1", "Kind().m()", "Kind.m = lambda self: 2"),
    "module exchanged": ("import math as m\nclass Kind:\n    def f(self): return m.sqrt(4)", "Kind().f()", "import cmath as m"),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITS)
def test_change_in_the_master_reaches_the_next_call(other_process, what):
    source, value, edit = EDITS[what]
    names = define_in_main(f"{source}\n{LOOK.replace('VALUE', value)}")
    look = names["look"]
    for code in (None, edit, None):
        if code is not None:
            exec(code, names)
        for _ in range(4):
            assert other_process.run(look, names["Kind"]) == look()


@pytest.mark.parametrize("what", EDITS)
def test_change_of_one_class_leaves_others_current(other_process, what):
    """Loads in turn a class, one that refers to it, and one that it refers to."""
    source, value, edit = EDITS[what]
    names = define_in_main(
        f"{source}\n{LOOK.replace('VALUE', value)}\nclass User:\n    def look(self): return look()\nclass Mine(Base if 'Base' in globals() else object): pass\n"
    )
    for code in (None, edit):
        if code is not None:
            exec(code, names)
        for _ in range(4):
            assert (
                other_process.run(lambda user, mine, kind: user().look(), names["User"], names["Mine"], names["Kind"])
                == names["look"]()
            )
            assert other_process.run(names["look"], names["Kind"], names["User"]) == names["look"]()


# ---- changes in a worker: a call changes the class there; the next call finds it as the master has it ----

CHANGES = {
    "attribute": "Kind.x = 5",
    "attribute added": "Kind.more = 5",
    "attribute deleted": "del Kind.x",
    "method": "Kind.m = lambda self: 5",
    "code": "Kind.m.__code__ = (lambda self: 5).__code__",
    "default": "Kind.m.__defaults__ = (5,)",
    "attribute of a method": "Kind.m.unit = 5",
    "global of a method": "Kind.m.__globals__['N'] = 5",
    "global that it has not": "Kind.m.__globals__['later'] = 5",
    "base": "Base.x = 5; Base.b = lambda self: 5",
    "bases": "Kind.__bases__ = (Other, Base)",
    "other class": "Other.x = 5",
    "helper": "helper.__code__ = (lambda: 5).__code__",
    "annotations": "Kind.__annotations__['y'] = 5",
    "list": "Kind.known.append(5)",
    "item in a dict": "Kind.table['a'][0].add(5)",
    "attribute of an instance": "Kind.other.x = 5",
    "member": "Colour.RED.x = 5; Colour.m = lambda self: 5",
}

WORKER = """
import enum
N = 1
def helper(): return N
class Base:
    x = 1
    def b(self): return helper()
class Other:
    x = 1
class Colour(enum.Enum):
    RED = 1
    def m(self): return 1
class Kind(Base):
    x = 2
    y: int = 1
    known = []
    table = {'a': [{1}]}
    other = Other()
    def m(self, d=1):
        try: return later
        except NameError: return N, d, Other.x, helper(), Colour.RED.m(), getattr(Colour.RED, "x", None)
Kind.m.unit = 1
def look(*_):
    return Kind.x, Base.x, Other.x, getattr(Kind, "more", None), Kind().m(), Kind().b(), Kind.m.unit, Kind.__annotations__, Kind.__bases__, Kind.known, Kind.table, Kind.other.x
"""


@pytest.mark.parametrize("what", CHANGES)
def test_change_in_call_stays_in_call(other_process, what):
    names = define_in_main(f"{WORKER}def change(*_):\n    {CHANGES[what]}\n")
    kind, look = names["Kind"], names["look"]
    for _ in range(4):
        assert other_process.run(look, kind) == look()
    for _ in range(3):
        other_process.run(names["change"], kind)
        assert other_process.run(look, kind) == look()
        assert other_process.run(look, names["Other"], kind) == look()


def test_definition_is_unpickled_once(other_process):
    names = define_in_main(
        "class Base: x = 1\nclass Meta(type):\n    made = 0\n    def __setattr__(cls, name, value): type.__setattr__(Meta, 'made', Meta.made + 1)\n"
        "class Kind(Base): pass\ndef methods(*_): return id(Kind.m), id(Base.m)\nclass Other(Base):\n    def m(self): return Kind\n"
        "Kind.m = lambda self: Other\nBase.m = lambda self: Kind\n"
    )
    kinds = names["Kind"], names["Base"], names["Other"]
    for _ in range(3):
        for kind in kinds:
            other_process.run(len, [kind, *kinds])
    seen = {other_process.run(lambda a, *_: id(a.__dict__["m"]), kind, *kinds) for kind in kinds for _ in range(3)}
    assert len(seen) == len(kinds)


# ---- the table ----


def test_definitions_are_bounded():
    kinds = [define_in_main(f"class Kind: x = {n}")["Kind"] for n in range(definitions_module.DEFINITIONS_MAX + 10)]
    for kind in kinds:
        settle(kind)
    assert len(definitions) == definitions_module.DEFINITIONS_MAX
    assert id(kinds[-1]) in definitions


@frees_definitions
def test_class_without_definition_is_not_kept_alive():
    kind = define_in_main("import threading\nclass Kind: lock = threading.Lock()")["Kind"]
    watched = weakref.ref(kind)
    settle(kind)
    once = define_in_main("class Kind: pass")["Kind"]
    watched_once = weakref.ref(once)
    dump(once)
    del kind, once
    gc.collect()
    assert watched() is None
    assert watched_once() is None


def test_class_that_changes_all_the_time_gets_none(other_process):
    names = define_in_main("class Kind: made = 0\ndef made(one): return type(one).made, Kind.made\n")
    for n in range(12):
        names["Kind"].made = n
        assert other_process.run(names["made"], names["Kind"]()) == (n, n)
    assert id(names["Kind"]) not in definitions


def test_threads_change_and_pickle_a_class(other_process):
    """A pickle has the class as it was at some time during pickling."""
    names = define_in_main("class Kind: n = 0\n")
    kind = names["Kind"]
    stop = threading.Event()
    pickles = []

    def pickle_all():
        while not stop.is_set():
            least = kind.n
            pickled = dump_call(1, max, (kind,), {})
            pickles.append((least, pickled, kind.n))

    threads = [threading.Thread(target=pickle_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(300):
        kind.n = n
        dump_call(1, max, (kind(),), {})
    stop.set()
    for thread in threads:
        thread.join()
    process = OtherProcess()
    try:
        for least, pickled, most in pickles[:: max(1, len(pickles) // 100)]:
            assert least <= process.run(_attribute_of, pickle.dumps(pickled[0])) <= most
    finally:
        process.close()


def _attribute_of(pickled):
    (kind,), _ = load([pickle.loads(pickled)])
    return kind.n
