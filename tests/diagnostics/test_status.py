"""The status of an executor: its numbers, its line, and valid HTML on its card."""

import gc
import re
from html.parser import HTMLParser

import pytest

from pympipool import Executor, share
from pympipool.diagnostics.status import ROWS_MAX, TILES_MAX, ExecutorStatus, Worker, as_html, as_text
from support.calls import divide, fail, hold, square
from support.waiting import wait_until

INFO = {"backend": "slurm", "max_workers": 400, "cores_per_worker": 2, "block_allocation": True}
CARD = re.compile(r'<div class="(\w+)(?: zero)?"><dt>\w+</dt><dd>(.*?)</dd>')


def counted(text):
    """Return {"running": 1, "waiting": 3, ...} from a repr."""
    return {name: int(count) for count, name in re.findall(r"(\d+) (running|waiting|done|failed)", text)}


def counted_on_card(html):
    return {name: int(count.replace("\N{NARROW NO-BREAK SPACE}", "")) for name, count in CARD.findall(html)}


def test_status_counts_calls(make_executor, gate):
    exe = make_executor(max_workers=2)
    assert counted(repr(exe)) == {"running": 0, "waiting": 0, "done": 0, "failed": 0}
    done = [exe.submit(square, i) for i in range(5)]
    failed = [exe.submit(fail) for _ in range(2)]
    assert [call.result() for call in done] == [0, 1, 4, 9, 16]
    assert all(isinstance(call.exception(), ValueError) for call in failed)
    held = [exe.submit(hold, gate.path) for _ in range(2)]
    gate.wait_until_begun(2)
    more = [exe.submit(square, i) for i in range(7)]
    expected = {"running": 2, "waiting": 7, "done": 5, "failed": 2}
    wait_until(lambda: counted(repr(exe)) == expected)
    assert counted_on_card(exe._repr_html_()) == expected
    gate.open(2)
    for call in held + more:
        call.result()
    exe.shutdown()
    assert counted(repr(exe)) == {"running": 0, "waiting": 0, "done": 14, "failed": 2}
    assert "shut down" in repr(exe)
    assert "shut down" in exe._repr_html_()


def test_answers_of_a_cache_are_counted(make_executor, tmp_path):
    for answered, text in ((0, "2 done, 0 failed; "), (2, "0 done, 0 failed, 2 from the cache; ")):
        exe = make_executor(max_workers=1, cache_directory=tmp_path / "cache")
        assert list(exe.map(square, [1, 2])) == [1, 4]
        exe.shutdown()
        assert text in repr(exe)
        assert ("2 calls from the cache" in exe._repr_html_()) == (answered == 2)


def test_calls_of_a_map_count_one_by_one(make_block_executor):
    exe = make_block_executor(max_workers=2)
    assert sum(exe.map(abs, range(10_000))) == sum(range(10_000))
    assert sum(exe.map(abs, range(1000), chunksize=300)) == sum(range(1000))
    assert counted(repr(exe)) == {"running": 0, "waiting": 0, "done": 11_000, "failed": 0}


def test_unsubmitted_calls_of_a_map_are_waiting(make_block_executor, gate):
    exe = make_block_executor(max_workers=1)
    results = exe.map(hold, [gate.path] * 100)
    gate.wait_until_begun()
    assert counted(repr(exe)) == {"running": 1, "waiting": 99, "done": 0, "failed": 0}
    gate.open(100)
    assert len(list(results)) == 100


def test_dependent_calls_are_waiting_then_failed(make_executor, gate):
    exe = make_executor(max_workers=1)
    held = exe.submit(hold, gate.path, 0)
    quotient = exe.submit(divide, 1, held)
    inverse = exe.submit(divide, 1, quotient)
    gate.wait_until_begun()
    assert counted(repr(exe)) == {"running": 1, "waiting": 2, "done": 0, "failed": 0}
    gate.open()
    assert isinstance(inverse.exception(), ZeroDivisionError)
    wait_until(lambda: counted(repr(exe)) == {"running": 0, "waiting": 0, "done": 1, "failed": 2})


def test_cancelled_calls_are_not_counted(make_executor, gate):
    exe = make_executor(max_workers=1)
    held = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    for waiting in [exe.submit(square, i) for i in range(3)]:
        assert waiting.cancel()
    gate.open()
    held.result()
    wait_until(lambda: counted(repr(exe)) == {"running": 0, "waiting": 0, "done": 1, "failed": 0})


def test_workers_are_shown_with_host_and_state(make_block_executor, gate):
    exe = make_block_executor(max_workers=2)
    held = exe.submit(hold, gate.path)
    gate.wait_until_begun()
    wait_until(lambda: len(exe.info["workers"]) == 2)
    host = exe.info["workers"][0]["host"]
    assert f"2 workers on {host};" in repr(exe)
    html = exe._repr_html_()
    assert sorted(re.findall(r'<s class="(\w+)"', html)) == ["idle", "running"]
    assert f'<span class="host">{host}</span>' in html
    for worker in exe.info["workers"]:
        assert f"<td>{host}</td><td>{worker['pid']}</td>" in html
    gate.open()
    held.result()


def test_rate_ignores_idle_time(make_block_executor):
    exe = make_block_executor()
    for i in range(100):
        exe.submit(square, i).result()
    first, second = (re.search(r"(\S+) calls/s", repr(exe))[1] for _ in range(2))
    assert first == second != "0"  # it does not fall while nothing runs


def test_repr_of_executor_that_was_not_started():
    exe = Executor.__new__(Executor)
    with pytest.raises(TypeError):
        exe.__init__(max_workers="2")
    assert repr(exe) == "<Executor that was not started>"


def test_shared_data_are_shown(executor):
    gc.collect()  # handles of other tests
    assert "shared object" not in repr(executor)
    handle = share(bytes(1_000_000))
    assert repr(executor).endswith("; 1 shared object, 1 MB>")
    with Executor(backend="serial") as serial:
        assert repr(serial).endswith("; open; 1 shared object, 1 MB>")
    assert " · 1 shared object, 1 MB</span>" in executor._repr_html_()
    del handle
    assert "shared object" not in executor._repr_html_()


# ---- the card ----


def make_status(workers, **counts):
    numbers = {"waiting": 0, "running": 0, "done": 0, "failed": 0, "calls_per_s": 0.0, "state": "open"}
    return ExecutorStatus(INFO, tuple(workers), **{**numbers, **counts})


class Tags(HTMLParser):
    """A parser that tracks open tags, and fails at an end tag without its start tag."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, _):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


WORKERS = [Worker(i, (f"node{i % 4}",), 100 + i, 2, "idle" if i else "starting", 3 * i) for i in range(400)]


@pytest.mark.parametrize("workers", [[], WORKERS[:1], sorted(WORKERS, key=lambda worker: worker.hosts)])
def test_card_closes_all_tags(workers):
    tags = Tags()
    tags.feed(as_html(make_status(workers, done=12345, calls_per_s=0.5)))
    assert tags.open == []


def test_host_names_are_escaped_in_html():
    html = as_html(make_status([Worker(1, ("<b>&host",), 1, 1, "idle", 0)]))
    assert "<b>&host" not in html
    assert '<span class="host">&lt;b&gt;&amp;host</span>' in html


def test_workers_beyond_the_limit_are_counted():
    html = as_html(make_status([Worker(i, ("node",), i, 1, "idle", 0) for i in range(TILES_MAX + 100)]))
    assert html.count("<s ") == TILES_MAX
    assert "and 100 more" in html
    assert html.count("<tr>") == ROWS_MAX + 1


def test_line_names_at_most_three_hosts():
    text = as_text(make_status([Worker(i, (f"node{i}",), i, 1, "idle", 0) for i in range(5)]))
    assert "5 workers on node0, node1 and 3 other hosts;" in text


def test_worker_is_shown_with_all_its_hosts():
    both = make_status([Worker(1, ("node2", "node1"), 7, 4, "idle", 0), Worker(2, ("node1",), 8, 4, "idle", 0)])
    assert "2 workers on node1, node2;" in as_text(both)
    html = as_html(both)
    assert '<span class="host">node2, node1</span>' in html
    assert "<td>node2, node1</td><td>7</td>" in html
