"""A module that was edited and reloaded runs in its new version on workers that have the old one."""

import pytest

from support.scripts import run_script

BEFORE = """
N = 1
def f(): return N
def g(): return f()
class Thing:
    def get(self): return f()
"""

SCRIPT = """
import importlib, pathlib
import edited
from edited import f, Thing
from pympipool import Executor

file = pathlib.Path(edited.__file__)

def through_the_module(): return edited.g()
def by_its_name(): return f()
def same(x): return x

def results(exe):
    return [
        exe.submit(edited.f).result(),
        exe.submit(edited.g).result(),
        exe.submit(through_the_module).result(),
        exe.submit(by_its_name).result(),
        exe.submit(lambda: edited.f()).result(),
        exe.submit(edited.Thing().get).result(),
        exe.submit(lambda thing: thing.get(), edited.Thing()).result(),
        exe.submit(same, edited.Thing()).result().get(),
        *exe.map(edited.Thing.get, [edited.Thing()]),
    ]

if __name__ == "__main__":
    with Executor(max_workers=1, block_allocation=BLOCK) as exe:
        for _ in range(3):
            assert results(exe) == [1] * 9, results(exe)
        importlib.reload(edited)
        assert results(exe) == [1] * 9, results(exe)
        import cloudpickle
        assert not cloudpickle.list_registry_pickle_by_value()  # reloaded, but not edited
        for n in (20, 300):
            file.write_text(file.read_text().replace(f"N = {edited.N}", f"N = {n}"))
            importlib.reload(edited)
            f, Thing = edited.f, edited.Thing
            for _ in range(3):
                assert results(exe) == [n] * 9, results(exe)
        assert type(exe.submit(same, edited.Thing()).result()) is edited.Thing
    print("fine")
"""


@pytest.mark.parametrize("block_allocation", [True, False])
def test_edited_and_reloaded_module_runs_as_it_is(tmp_path, block_allocation):
    (tmp_path / "edited.py").write_text(BEFORE)
    assert run_script(SCRIPT.replace("BLOCK", str(block_allocation)), tmp_path) == "fine\n"
