"""`plot_dependency_graph=True`: calls are drawn, and nothing runs."""

import os
import threading
from concurrent.futures import Future, wait
from xml.etree import ElementTree

import numpy as np
import pytest

from pympipool import Executor
from pympipool.diagnostics.graph.layout import GAP, find_places
from pympipool.diagnostics.graph.nodes import FUTURE_SIGN, Node, in_words
from pympipool.diagnostics.graph.svg import BOXES_MAX, as_svg
from support.calls import add, echo, square, touch
from support.processes import child_pids

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def edges(svg):
    return [path for path in ElementTree.fromstring(svg).iter(f"{SVG}path") if path.get("marker-end")]


def titles(svg):
    return [title.text for title in ElementTree.fromstring(svg).iter(f"{SVG}title")]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "graph.svg"


def test_coupled_calls_are_drawn_and_do_not_run(file, tmp_path):
    processes, threads = child_pids(), set(threading.enumerate())
    with Executor(max_cores=2, plot_dependency_graph_filename=file) as exe:
        first = exe.submit(add, 1, 2)
        second = exe.submit(square, [first, 7])
        exe.submit(touch, tmp_path / "touched")
        exe.submit(add, second, y=first)
        assert child_pids() == processes
        assert set(threading.enumerate()) == threads
        assert not file.exists()
    svg = file.read_text()
    assert not (tmp_path / "touched").exists()
    assert len(edges(svg)) == 3
    assert titles(svg) == [
        "add(1, 2)",
        f"square([{FUTURE_SIGN}, 7])",
        titles(svg)[2],
        f"add({FUTURE_SIGN}, y={FUTURE_SIGN})",
    ]
    assert texts(svg)[:4] == ["add", "1, 2", "square", f"[{FUTURE_SIGN}, 7]"]


def test_results_are_an_error_at_once_that_says_why(file):
    with Executor(plot_dependency_graph=True, plot_dependency_graph_filename=file) as exe:
        call = exe.submit(square, 2)
        assert wait([call], timeout=60).done == {call}
        with pytest.raises(RuntimeError, match=r"draws calls instead of running them \(plot_dependency_graph=True\)"):
            call.result()
        with pytest.raises(RuntimeError, match="draws calls"):
            list(exe.map(square, [1, 2], progress=False))
    assert texts(file.read_text())[0] == "square"


def test_what_was_submitted_before_an_error_is_drawn(file):
    def script():
        with Executor(plot_dependency_graph_filename=file) as exe:
            exe.submit(square, 2)
            return 1 / 0

    with pytest.raises(ZeroDivisionError):
        script()
    assert texts(file.read_text()) == ["square", "2"]


def test_many_alike_calls_are_one_box(file):
    with Executor(plot_dependency_graph_filename=str(file)) as exe:
        start = exe.submit(echo, 0)
        squares = [exe.submit(add, start, i) for i in range(1000)]
        exe.submit(sum, squares)
    svg = file.read_text()
    assert [title.split("(")[0] for title in titles(svg)] == ["echo", "add", "sum"]
    assert "×1000" in texts(svg)
    assert len(edges(svg)) == 2


def test_a_map_is_drawn(file):
    with Executor(block_allocation=True, plot_dependency_graph_filename=file) as exe:
        exe.map(square, range(3))
        exe.map(square, range(3), chunksize=2)
    assert texts(file.read_text()) == ["square", "0, …", "×6"]  # all of them alike: one box


def test_cores_of_a_call_are_told(file):
    with Executor(max_cores=4, plot_dependency_graph_filename=file) as exe:
        exe.submit(square, 2, resource_dict={"cores": 4})
        with pytest.raises(ValueError, match="cores is 5; it must be at most 4"):
            exe.submit(square, 2, resource_dict={"cores": 5})
    assert texts(file.read_text()) == ["square", "2 · 4 cores"]


def test_futures_of_elsewhere_are_drawn_too(file):
    with Executor(plot_dependency_graph_filename=file) as exe:
        exe.submit(square, Future())
    assert texts(file.read_text())[0] == "a future of elsewhere"
    assert len(edges(file.read_text())) == 1


def test_what_is_not_installed_here_can_be_drawn(file):
    parameters = {"gpus_per_worker": 4, "command_line_argument_lst": ["-p", "long"], "max_workers": 100}
    with Executor(backend="slurm", plot_dependency_graph_filename=file, block_allocation=True, **parameters) as exe:
        exe.submit(square, 2)
        assert exe.info["backend"] == "slurm"
        assert exe.info["workers"] == []
        assert repr(exe) == "<Executor that draws calls instead of running them: 1 call>"
        assert len(exe) == 1
        exe.max_workers = 50
    assert texts(file.read_text()) == ["square", "2"]


def test_a_closed_executor_takes_no_calls(file):
    exe = Executor(plot_dependency_graph_filename=file)
    exe.shutdown()
    exe.shutdown()
    assert texts(file.read_text()) == ["no call was submitted"]
    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.submit(square, 1)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"plot_dependency_graph": True}, "draws in notebooks; here, say plot_dependency_graph_filename='graph.svg'"),
        ({"plot_dependency_graph_filename": "graph.png"}, "is 'graph.png'; it must end in .svg"),
        ({"plot_dependency_graph_filename": "/no/such/graph.svg"}, "the folder /no/such does not exist"),
        (
            {"plot_dependency_graph_filename": "graph.svg", "disable_dependencies": True},
            "dependencies are what is drawn",
        ),
        ({"plot_dependency_graph_filename": "graph.svg", "backend": "slum"}, "did you mean 'slurm'"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_at_once(parameters, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011  what it says is looked at
        Executor(**parameters)
    assert words in str(error.value)


@pytest.mark.parametrize("wrong", [{"plot_dependency_graph": 1}, {"plot_dependency_graph_filename": 3}])
def test_what_is_of_a_wrong_type_is_an_error(wrong):
    with pytest.raises(TypeError):
        Executor(**wrong)


# ---- words ----


class Wordless:
    def __repr__(self):
        raise ValueError("no words")


def test_arguments_are_told_in_a_few_words():
    assert in_words((1, "two"), {"x": [1, 2]}) == "1, 'two', x=[1, 2]"
    assert in_words((np.zeros((3, 4)),), {}) == "ndarray 3×4"
    assert in_words((Wordless(),), {}).startswith("<Wordless instance")
    assert len(in_words(("x" * 10**6, list(range(10**6))), {})) < 80
    assert "\n" not in in_words(("a\nb", Future()), {})


def test_names_cannot_be_markup(file):
    with Executor(plot_dependency_graph_filename=file) as exe:
        exe.submit(lambda: 1)
        exe.submit(echo, "<script>&")
    assert "'<script>&'" in texts(file.read_text())


# ---- places ----


def diamond_chain(length):
    nodes = [Node("start")]
    for _ in range(length):
        top = len(nodes) - 1
        nodes += [Node("left", inputs=frozenset({top})), Node("right", inputs=frozenset({top, 0}))]
        nodes.append(Node("join", inputs=frozenset({len(nodes) - 1, len(nodes) - 2})))
    return nodes


@pytest.mark.parametrize("nodes", [diamond_chain(8), [Node(str(i)) for i in range(30)]], ids=["diamonds", "alone"])
def test_boxes_do_not_touch_and_stand_below_their_inputs(nodes):
    places, ways = find_places(nodes, [80.0 + 7 * (i % 5) for i in range(len(nodes))])
    for (start, end), way in ways.items():
        assert [places[one].layer for one in way] == list(range(places[start].layer, places[end].layer + 1))
    for one in places:
        for other in places:
            if one is not other and one.layer == other.layer and one.width and other.width:
                assert abs(one.x - other.x) >= (one.width + other.width) / 2 + GAP - 1e-6


def test_very_many_boxes_are_counted_not_drawn():
    nodes = [Node(f"f{i}", inputs=frozenset({i - 1} if i else ())) for i in range(BOXES_MAX + 5)]
    svg = as_svg(nodes)
    assert len(titles(svg)) == BOXES_MAX
    assert texts(svg)[-1] == "and 5 calls more"


def test_where_no_file_can_be_written_shutdown_says_so(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    exe = Executor(plot_dependency_graph_filename=folder / "graph.svg")
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        exe.shutdown()
    assert os.listdir(tmp_path) == []
