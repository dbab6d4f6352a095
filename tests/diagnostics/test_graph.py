"""`plot_dependency_graph=True`: the graph of calls is drawn, and nothing runs."""

import os
import threading
from concurrent.futures import Future, wait
from xml.etree import ElementTree

import numpy as np
import pytest

from pympipool import Executor
from pympipool.diagnostics.graph.layout import GAP, compute_positions
from pympipool.diagnostics.graph.nodes import FUTURE_SIGN, Node, summarize_arguments
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


def test_dependent_calls_are_drawn_and_not_run(file, tmp_path):
    processes, threads = child_pids(), set(threading.enumerate())
    with Executor(max_cores=2, plot_dependency_graph_filename=file) as exe:
        first = exe.submit(add, 1, 2)
        second = exe.submit(square, [first, 7])
        exe.submit(touch, tmp_path / "touched")
        exe.submit(add, second, y=first)
        assert child_pids() <= processes
        assert set(threading.enumerate()) <= threads
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


def test_requesting_a_result_raises_at_once(file):
    with Executor(plot_dependency_graph=True, plot_dependency_graph_filename=file) as exe:
        call = exe.submit(square, 2)
        assert wait([call], timeout=60).done == {call}
        with pytest.raises(RuntimeError, match=r"draws calls instead of running them \(plot_dependency_graph=True\)"):
            call.result()
        with pytest.raises(RuntimeError, match="draws calls"):
            list(exe.map(square, [1, 2], progress=False))
    assert texts(file.read_text())[0] == "square"


def test_graph_is_drawn_after_an_exception(file):
    def script():
        with Executor(plot_dependency_graph_filename=file) as exe:
            exe.submit(square, 2)
            return 1 / 0

    with pytest.raises(ZeroDivisionError):
        script()
    assert texts(file.read_text()) == ["square", "2"]


def test_many_similar_calls_are_one_box(file):
    with Executor(plot_dependency_graph_filename=str(file)) as exe:
        start = exe.submit(echo, 0)
        squares = [exe.submit(add, start, i) for i in range(1000)]
        exe.submit(sum, squares)
    svg = file.read_text()
    assert [title.split("(")[0] for title in titles(svg)] == ["echo", "add", "sum"]
    assert "×1000" in texts(svg)
    assert len(edges(svg)) == 2


def test_map_is_drawn(file):
    with Executor(block_allocation=True, plot_dependency_graph_filename=file) as exe:
        exe.map(square, range(3))
        exe.map(square, range(3), chunksize=2)
    assert texts(file.read_text()) == ["square", "0, …", "×6"]  # all similar: one box


def test_cores_of_a_call_are_shown(file):
    with Executor(max_cores=4, plot_dependency_graph_filename=file) as exe:
        exe.submit(square, 2, resource_dict={"cores": 4})
        with pytest.raises(ValueError, match="cores is 5; it must be at most 4"):
            exe.submit(square, 2, resource_dict={"cores": 5})
    assert texts(file.read_text()) == ["square", "2 · 4 cores"]


def test_futures_from_elsewhere_are_drawn(file):
    with Executor(plot_dependency_graph_filename=file) as exe:
        exe.submit(square, Future())
    assert texts(file.read_text())[0] == "a future from elsewhere"
    assert len(edges(file.read_text())) == 1


def test_graph_needs_no_installed_backend(file):
    parameters = {"gpus_per_worker": 4, "command_line_argument_lst": ["-p", "long"], "max_workers": 100}
    with Executor(backend="slurm", plot_dependency_graph_filename=file, block_allocation=True, **parameters) as exe:
        exe.submit(square, 2)
        assert exe.info["backend"] == "slurm"
        assert exe.info["workers"] == []
        assert repr(exe) == "<Executor that draws calls instead of running them: 1 call>"
        assert len(exe) == 1
        exe.max_workers = 50
    assert texts(file.read_text()) == ["square", "2"]


def test_closed_executor_rejects_calls(file):
    exe = Executor(plot_dependency_graph_filename=file)
    exe.shutdown()
    exe.shutdown()
    assert texts(file.read_text()) == ["no call was submitted"]
    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.submit(square, 1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"plot_dependency_graph": True},
            "draws in notebooks; elsewhere, set plot_dependency_graph_filename='graph.svg'",
        ),
        ({"plot_dependency_graph_filename": "graph.png"}, "is 'graph.png'; it must end in .svg"),
        ({"plot_dependency_graph_filename": "/no/such/graph.svg"}, "the folder /no/such does not exist"),
        (
            {"plot_dependency_graph_filename": "graph.svg", "disable_dependencies": True},
            "dependencies are what is drawn",
        ),
        ({"plot_dependency_graph_filename": "graph.svg", "backend": "slum"}, "did you mean 'slurm'"),
    ],
)
def test_wrong_parameters_raise_at_once(parameters, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011  the message is checked below
        Executor(**parameters)
    assert message in str(error.value)


@pytest.mark.parametrize("wrong", [{"plot_dependency_graph": 1}, {"plot_dependency_graph_filename": 3}])
def test_parameters_of_wrong_type_raise(wrong):
    with pytest.raises(TypeError):
        Executor(**wrong)


# ---- arguments ----


class BrokenRepr:
    def __repr__(self):
        raise ValueError("no repr")


def test_arguments_are_summarized():
    assert summarize_arguments((1, "two"), {"x": [1, 2]}) == "1, 'two', x=[1, 2]"
    assert summarize_arguments((np.zeros((3, 4)),), {}) == "ndarray 3×4"
    assert summarize_arguments((BrokenRepr(),), {}).startswith("<BrokenRepr instance")
    assert len(summarize_arguments(("x" * 10**6, list(range(10**6))), {})) < 80
    assert "\n" not in summarize_arguments(("a\nb", Future()), {})


def test_names_are_escaped_in_svg(file):
    with Executor(plot_dependency_graph_filename=file) as exe:
        exe.submit(lambda: 1)
        exe.submit(echo, "<script>&")
    assert "'<script>&'" in texts(file.read_text())


# ---- layout ----


def diamond_chain(length):
    nodes = [Node("start")]
    for _ in range(length):
        top = len(nodes) - 1
        nodes += [Node("left", inputs=frozenset({top})), Node("right", inputs=frozenset({top, 0}))]
        nodes.append(Node("join", inputs=frozenset({len(nodes) - 1, len(nodes) - 2})))
    return nodes


@pytest.mark.parametrize("nodes", [diamond_chain(8), [Node(str(i)) for i in range(30)]], ids=["diamonds", "alone"])
def test_boxes_are_below_inputs_and_do_not_touch(nodes):
    positions, paths = compute_positions(nodes, [80.0 + 7 * (i % 5) for i in range(len(nodes))])
    for (start, end), path in paths.items():
        assert [positions[number].layer for number in path] == list(
            range(positions[start].layer, positions[end].layer + 1)
        )
    for one in positions:
        for other in positions:
            if one is not other and one.layer == other.layer and one.width and other.width:
                assert abs(one.x - other.x) >= (one.width + other.width) / 2 + GAP - 1e-6


def test_boxes_beyond_the_limit_are_counted():
    nodes = [Node(f"f{i}", inputs=frozenset({i - 1} if i else ())) for i in range(BOXES_MAX + 5)]
    svg = as_svg(nodes)
    assert len(titles(svg)) == BOXES_MAX
    assert texts(svg)[-1] == "and 5 more calls"


def test_shutdown_raises_if_file_is_unwritable(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    exe = Executor(plot_dependency_graph_filename=folder / "graph.svg")
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        exe.shutdown()
    assert os.listdir(tmp_path) == []
