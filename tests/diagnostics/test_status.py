"""What an executor shows of itself: the numbers are true, the card is a whole one."""

import re
from html.parser import HTMLParser

import pytest

from pympipool import Executor
from pympipool.diagnostics.status import ROWS_MAX, TILES_MAX, ExecutorStatus, Worker, as_html, as_text
from support.calls import divide, fail, hold, square
from support.waiting import wait_until

INFO = {"backend": "slurm", "max_workers": 400, "cores_per_worker": 2, "block_allocation": True}
CARD = re.compile(r'<div class="(\w+)(?: zero)?"><dt>\w+</dt><dd>(.*?)</dd>')


def counted(text):
    """{"running": 1, "waiting": 3, ...} of a repr."""
    return {name: int(count) for count, name in re.findall(r"(\d+) (running|waiting|done|failed)", text)}


def counted_on_card(html):
    return {name: int(count.replace("\N{NARROW NO-BREAK SPACE}", "")) for name, count in CARD.findall(html)}


def test_the_numbers_are_those_of_the_calls(make_executor, gate):
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


def test_calls_of_a_map_count_each_by_itself(make_block_executor):
    exe = make_block_executor(max_workers=2)
    assert sum(exe.map(abs, range(10_000))) == sum(range(10_000))
    assert sum(exe.map(abs, range(1000), chunksize=300)) == sum(range(1000))
    assert counted(repr(exe)) == {"running": 0, "waiting": 0, "done": 11_000, "failed": 0}


def test_calls_that_a_map_has_not_submitted_yet_wait(make_block_executor, gate):
    exe = make_block_executor(max_workers=1)
    results = exe.map(hold, [gate.path] * 100)
    gate.wait_until_begun()
    assert counted(repr(exe)) == {"running": 1, "waiting": 99, "done": 0, "failed": 0}
    gate.open(100)
    assert len(list(results)) == 100


def test_calls_that_wait_for_others_wait_and_fail_with_them(make_executor, gate):
    exe = make_executor(max_workers=1)
    held = exe.submit(hold, gate.path, 0)
    quotient = exe.submit(divide, 1, held)
    inverse = exe.submit(divide, 1, quotient)
    gate.wait_until_begun()
    assert counted(repr(exe)) == {"running": 1, "waiting": 2, "done": 0, "failed": 0}
    gate.open()
    assert isinstance(inverse.exception(), ZeroDivisionError)
    wait_until(lambda: counted(repr(exe)) == {"running": 0, "waiting": 0, "done": 1, "failed": 2})


def test_cancelled_calls_count_as_nothing(make_executor, gate):
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


def test_rates_are_of_the_time_in_which_calls_ran(make_block_executor):
    exe = make_block_executor()
    for i in range(100):
        exe.submit(square, i).result()
    first, second = (re.search(r"(\S+) calls/s", repr(exe))[1] for _ in range(2))
    assert first == second != "0"  # it does not sink while nothing runs


def test_an_executor_that_was_refused_can_be_shown():
    exe = Executor.__new__(Executor)
    with pytest.raises(TypeError):
        exe.__init__(max_workers="2")
    assert repr(exe) == "<Executor that was not started>"


# ---- the card ----


def sight(workers, **counts):
    numbers = {"waiting": 0, "running": 0, "done": 0, "failed": 0, "calls_per_s": 0.0, "state": "open"}
    return ExecutorStatus(INFO, tuple(workers), **{**numbers, **counts})


class Tags(HTMLParser):
    """Which tags are open; fails where one is closed that is not."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, _):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


WORKERS = [Worker(i, (f"node{i % 4}",), 100 + i, 2, "idle" if i else "starting", 3 * i) for i in range(400)]


@pytest.mark.parametrize("workers", [[], WORKERS[:1], sorted(WORKERS, key=lambda worker: worker.hosts)])
def test_the_card_closes_what_it_opens(workers):
    tags = Tags()
    tags.feed(as_html(sight(workers, done=12345, calls_per_s=0.5)))
    assert tags.open == []


def test_names_of_hosts_cannot_be_html():
    html = as_html(sight([Worker(1, ("<b>&host",), 1, 1, "idle", 0)]))
    assert "<b>&host" not in html
    assert '<span class="host">&lt;b&gt;&amp;host</span>' in html


def test_very_many_workers_are_counted_not_drawn():
    html = as_html(sight([Worker(i, ("node",), i, 1, "idle", 0) for i in range(TILES_MAX + 100)]))
    assert html.count("<s ") == TILES_MAX
    assert "and 100 more" in html
    assert html.count("<tr>") == ROWS_MAX + 1


def test_many_hosts_are_not_all_named_in_a_line():
    text = as_text(sight([Worker(i, (f"node{i}",), i, 1, "idle", 0) for i in range(5)]))
    assert "5 workers on node0, node1 and 3 other hosts;" in text


def test_a_worker_on_several_hosts_is_shown_with_all_of_them():
    both = sight([Worker(1, ("node2", "node1"), 7, 4, "idle", 0), Worker(2, ("node1",), 8, 4, "idle", 0)])
    assert "2 workers on node1, node2;" in as_text(both)
    html = as_html(both)
    assert '<span class="host">node2, node1</span>' in html
    assert "<td>node2, node1</td><td>7</td>" in html
