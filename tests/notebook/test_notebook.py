"""The features work in a notebook: a real kernel runs these cells, with and without block allocation."""

import os

import pytest

from notebook.kernel import Kernel
from support.processes import marked_processes, new_mark, still_alive
from support.scripts import script_environment

MODES = {"one_process_per_call": "max_cores=2", "block_allocation": "max_cores=2, block_allocation=True"}


@pytest.fixture(scope="module")
def mark_of_kernel():
    return new_mark()


@pytest.fixture(scope="module", params=MODES.values(), ids=MODES)
def kernel(request, tmp_path_factory, mark_of_kernel):
    """A kernel with an open executor `exe`."""
    kernel = Kernel(tmp_path_factory.mktemp("notebook"), script_environment(mark_of_kernel))
    kernel.run("from pympipool import Executor")
    opened = kernel.run(f"exe = Executor({request.param})")
    assert opened.error == ""
    yield kernel
    kernel.close()
    assert still_alive(marked_processes(mark_of_kernel)) == []


def value_of(kernel, code):
    cell = kernel.run(code)
    assert cell.error == ""
    return cell.value


def test_functions_defined_in_a_cell_run(kernel):
    kernel.run("def calc(a, b):\n    return a + b")
    assert value_of(kernel, "exe.submit(calc, 1, b=2).result()") == "3"
    assert value_of(kernel, "list(exe.map(calc, [1, 2], [3, 4]))") == "[4, 6]"


def test_redefined_function_runs_in_its_new_version(kernel):
    for version in ("1", "2", "3"):
        kernel.run(f"def changing():\n    return {version}")
        assert value_of(kernel, "exe.submit(changing).result()") == version


def test_function_sees_current_globals_of_the_notebook(kernel):
    kernel.run("factor = 2\ndef scale(x):\n    return factor * x")
    assert value_of(kernel, "exe.submit(scale, 10).result()") == "20"
    kernel.run("factor = 3")
    assert value_of(kernel, "exe.submit(scale, 10).result()") == "30"


def test_function_calls_redefined_inner_function(kernel):
    kernel.run("def inner():\n    return 'old'\ndef outer():\n    return inner()")
    assert value_of(kernel, "exe.submit(outer).result()") == "'old'"
    kernel.run("def inner():\n    return 'new'")
    assert value_of(kernel, "exe.submit(outer).result()") == "'new'"


def test_classes_defined_in_a_cell_travel_both_ways(kernel):
    kernel.run(
        "class Point:\n"
        "    def __init__(self, x):\n        self.x = x\n"
        "    def moved(self, by):\n        return Point(self.x + by)\n"
    )
    assert value_of(kernel, "p = exe.submit(Point(1).moved, 2).result(); (p.x, isinstance(p, Point))") == "(3, True)"


def test_redefined_class_is_used_in_new_version(kernel):
    for version in ("'first'", "'second'"):
        kernel.run(f"class Changing:\n    def name(self):\n        return {version}")
        assert value_of(kernel, "exe.submit(Changing().name).result()") == version
        assert value_of(kernel, "isinstance(exe.submit(Changing).result(), Changing)") == "True"


def test_closures_and_lambdas_defined_in_a_cell_run(kernel):
    kernel.run("def adder(n):\n    def add(x):\n        return x + n\n    return add")
    assert value_of(kernel, "[exe.submit(adder(n), 10).result() for n in range(3)]") == "[10, 11, 12]"
    assert value_of(kernel, "exe.submit(lambda x: x ** 2, 5).result()") == "25"


def test_exceptions_defined_in_a_cell_can_be_caught(kernel):
    kernel.run("class Mine(Exception):\n    pass\ndef fail():\n    raise Mine('from a worker')")
    cell = kernel.run(
        "try:\n    exe.submit(fail).result()\nexcept Mine as error:\n    print('caught', error)\n"
        "    assert 'in fail' in str(error.__cause__)"
    )
    assert (cell.stdout, cell.error) == ("caught from a worker\n", "")


def test_an_exception_ends_its_cell_only(kernel):
    assert kernel.run("exe.submit(divmod, 1, 0).result()").error.startswith("ZeroDivisionError")
    assert value_of(kernel, "exe.submit(divmod, 7, 2).result()") == "(3, 1)"


def test_stdout_of_workers_reaches_the_cell(kernel):
    kernel.run("def say(text):\n    print('worker says', text)\n    return text")
    cell = kernel.run("exe.submit(say, 'hello').result()", until="worker says hello\n")
    assert cell.value == "'hello'"


def test_stderr_of_workers_reaches_the_cell(kernel):
    kernel.run("import sys\ndef warn(text):\n    print(text, file=sys.stderr)")
    assert kernel.run("exe.submit(warn, 'a warning').result()", until="a warning\n").stderr == "a warning\n"


def test_an_interrupted_cell_leaves_the_executor_usable(kernel, tmp_path):
    """The interrupt ends the waiting only. The call keeps running, as with any executor."""
    kernel.run("import os\ndef hold(path):\n    print('begun')\n    return open(path).read()")
    path = tmp_path / "pipe"
    os.mkfifo(path)
    cell = kernel.run(f"held = exe.submit(hold, {str(path)!r})\nheld.result()", interrupt_at="begun\n")
    assert cell.error.startswith("KeyboardInterrupt")
    assert value_of(kernel, "exe.submit(divmod, 7, 2).result()") == "(3, 1)"
    path.write_text("let go")
    assert value_of(kernel, "held.result()") == "'let go'"


def test_coupled_functions_of_a_notebook_run(kernel):
    kernel.run("def calc(a, b):\n    return a + b")
    assert value_of(kernel, "exe.submit(calc, 1, exe.submit(calc, 1, [exe.submit(calc, 1, 2)][0])).result()") == "5"


def test_await_works_at_the_top_of_a_cell(kernel):
    assert value_of(kernel, "import asyncio\nawait asyncio.wrap_future(exe.submit(pow, 2, 5))") == "32"


def test_an_init_function_defined_in_a_cell_runs(kernel):
    kernel.run("def init():\n    return {'k': 40}\ndef use(i, k):\n    return i + k")
    parameters = "max_workers=1, block_allocation=True, init_function=init"
    assert value_of(kernel, f"with Executor({parameters}) as other:\n    r = other.submit(use, 2).result()\nr") == "42"


@pytest.mark.mpi
def test_functions_of_several_cores_run(kernel):
    kernel.run("def ranks():\n    from mpi4py import MPI\n    return MPI.COMM_WORLD.Get_rank()")
    code = "with Executor(max_cores=2, cores_per_worker=2) as other:\n    r = other.submit(ranks).result()\nr"
    assert value_of(kernel, code) == "[0, 1]"


def test_an_executor_is_shown_as_a_card(kernel):
    kernel.run("exe.submit(divmod, 7, 2).result()")
    cell = kernel.run("exe")
    assert cell.error == ""
    assert cell.value.startswith("<Executor backend=")
    assert '<section class="pympipool"' in cell.html


@pytest.mark.filterwarnings("default")
def test_a_bar_is_shown_while_calls_run(kernel):
    pytest.importorskip("tqdm", reason="pip install tqdm")
    cell = kernel.run("sum(exe.map(abs, range(50), progress='fifty'))")
    assert (cell.value, cell.error) == ("1225", "")
    drawn = cell.stderr + "".join(str(shown) for shown in cell.displays)  # text, or a widget where there are widgets
    assert "fifty" in drawn


KEEP_BARS = """
import os, time, tqdm.auto, uuid
from pympipool import progress
made = []
gate = os.path.abspath(uuid.uuid4().hex)
class Kept(tqdm.auto.tqdm):
    def __init__(self, *args, **kwargs):
        made.append(self)
        super().__init__(*args, **kwargs)
tqdm.auto.tqdm = Kept
def pick(x):
    time.sleep(0.01)
    if x == 7:
        raise ValueError(x)
    while x >= 100 and not os.path.exists(gate):
        time.sleep(0.01)
    return x
def last_bar():
    text, bar, _ = made[-1].container.children
    return text.value.split(":")[0], int(bar.value), bar.bar_style
"""


@pytest.fixture
def kernel_with_widgets(kernel):
    """A kernel that keeps each progress bar that it creates in the list `made`."""
    pytest.importorskip("tqdm", reason="pip install tqdm")
    pytest.importorskip("ipywidgets", reason="pip install ipywidgets")
    assert kernel.run(KEEP_BARS).error == ""
    yield kernel
    assert kernel.run("tqdm.auto.tqdm = Kept.__mro__[1]; open(gate, 'w').close()").error == ""


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("x = list(exe.map(pick, range(7), progress=True))", ("pick", 7, "success")),
        ("x = progress([exe.submit(pick, x) for x in range(7)], desc='seven')", ("seven", 7, "success")),
        ("x = progress([exe.submit(pick, x) for x in range(9)], desc='nine')", ("nine", 9, "danger")),
    ],
)
def test_widget_color_shows_whether_all_calls_returned(kernel_with_widgets, code, ended):
    cell = kernel_with_widgets.run(code)
    assert (cell.error, cell.stdout, cell.stderr) == ("", "", "")
    assert "application/vnd.jupyter.widget-view+json" in cell.displays[0]
    assert value_of(kernel_with_widgets, "last_bar()") == repr(ended)


@pytest.mark.parametrize(
    "code",
    [
        "for _ in exe.map(pick, range(200), chunksize=1, progress=True): break",
        "x = list(exe.map(pick, range(200), chunksize=1, progress=True))",
    ],
    ids=["left", "raised"],
)
def test_widget_of_unfinished_map_is_red(kernel_with_widgets, code):
    kernel_with_widgets.run(code)
    assert value_of(kernel_with_widgets, "last_bar()[2], made[-1].n < 200") == "('danger', True)"


def test_without_widgets_the_bar_is_text(tmp_path):
    pytest.importorskip("tqdm", reason="pip install tqdm")
    (tmp_path / "ipywidgets.py").write_text("raise ImportError('not installed')")
    kernel = Kernel(tmp_path, script_environment(new_mark()))
    try:
        kernel.run("from pympipool import Executor")
        cell = kernel.run(
            "with Executor(max_cores=1, block_allocation=True) as exe:\n"
            "    print(sum(exe.map(abs, range(50), progress='fifty')))"
        )
    finally:
        kernel.close()
    assert (cell.error, cell.stdout, cell.displays) == ("", "1225\n", [])
    assert "fifty: 100%" in cell.stderr


def test_trace_and_its_picture_show_themselves(kernel):
    pytest.importorskip("matplotlib", reason="no matplotlib: pip install matplotlib")
    kernel.run("from pympipool import trace\nwith trace() as seen:\n    exe.submit(divmod, 7, 2).result()")
    cell = kernel.run("seen")
    assert "1 call: 1 returned" in cell.value
    assert "<svg" in cell.html
    assert "1 call: 1 returned" in cell.html
    assert "<svg" in kernel.run("seen.plot()").html


def test_dashboard_is_shown_in_a_frame(kernel):
    cell = kernel.run("exe.dashboard()")
    assert cell.value.startswith("<Dashboard http://127.0.0.1:")
    assert "<iframe" in cell.html


def test_call_graph_is_drawn_below_the_cell(kernel):
    cell = kernel.run(
        "with Executor(plot_dependency_graph=True) as drawn:\n    drawn.submit(divmod, drawn.submit(divmod, 7, 2), 3)"
    )
    assert cell.error == ""
    assert [shown["text/html"].count("<g ") for shown in cell.displays] == [2]
    assert "<svg" in kernel.run("drawn").html
