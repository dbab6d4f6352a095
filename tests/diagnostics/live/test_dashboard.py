"""The dashboard serves the status of its executor to those who know its address, and ends with the executor."""

import gc
import http.client
import json
import os
import socket
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pympipool import Executor, share
from pympipool.backends.registry import BACKENDS
from pympipool.diagnostics.live import server
from support.loopback_agents import LoopbackAgentsBackend
from support.scripts import Script
from support.waiting import LIMIT_S, wait_until


def nap(path):
    while not path.exists():
        time.sleep(0.01)


def ask(dashboard, name="", *, path=None, method="GET", **headers):
    """Send a request; return its response, which has been read into `text`."""
    parts = urlsplit(dashboard.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=LIMIT_S)
    try:
        connection.request(method, parts.path + name if path is None else path, headers=headers)
        response = connection.getresponse()
        response.text = response.read().decode()
        return response
    finally:
        connection.close()


def status_of(dashboard):
    response = ask(dashboard, "status")
    assert response.status == 200, response.text
    return json.loads(response.text)


@pytest.fixture
def exe():
    with Executor(max_workers=2, block_allocation=True, backend="mpi") as made:
        yield made
        made.kill_workers()  # a call may wait for a test that has failed


# ---- what it shows ----


def test_page_and_its_parts_are_served(exe):
    dashboard = exe.dashboard()
    for name, kind, text in (
        ("", "text/html", "<title>pympipool</title>"),
        ("page.js", "text/javascript", 'fetch("status"'),
        ("page.css", "text/css", "prefers-color-scheme: dark"),
    ):
        response = ask(dashboard, name)
        assert (response.status, response.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert text in response.text
    assert ask(dashboard, "other").status == 404
    assert (
        ask(dashboard, path=urlsplit(dashboard.url).path.rstrip("/")).status == 404
    )  # relative addresses would be wrong


def test_status_tells_what_runs_waits_and_failed(exe, tmp_path):
    exe.submit(divmod, 1, 0).exception()
    held = [exe.submit(nap, tmp_path / "end") for _ in range(3)]
    wait_until(lambda: sum(one.running() for one in held) == 2, LIMIT_S)
    last = exe.submit(print, held[0])
    status = status_of(exe.dashboard())
    last.cancel()
    (tmp_path / "end").touch()
    assert {name: status["calls"][name] for name in ("running", "waiting", "blocked", "failed")} == {
        "running": 2,
        "waiting": 2,
        "blocked": 1,
        "failed": 1,
    }
    assert [worker["function"] for worker in status["workers"]] == ["nap", "nap"]
    assert all(worker["memory_bytes"] > 1e6 for worker in status["workers"])


def test_idle_executor_shows_idle_workers_and_shared_data(exe):
    data = share(bytes(1_000_000))
    assert exe.submit(len, data).result() == 1_000_000
    status = status_of(exe.dashboard())
    assert status["calls"]["done"] == 1
    assert {worker["state"] for worker in status["workers"]} <= {"idle", "starting"}
    assert "1 MB" in status["shared"]


def test_answers_of_the_cache_are_counted(tmp_path):
    with Executor(max_workers=1, block_allocation=True, cache_directory=tmp_path, backend="mpi") as exe:
        for _ in range(2):
            assert exe.submit(pow, 2, 3).result() == 8
            assert list(exe.map(abs, [-1, -2])) == [1, 2]
        assert status_of(exe.dashboard())["cache"] == {"found": 3, "missing": 3}


def test_workers_of_two_hosts_have_their_hosts(monkeypatch):
    monkeypatch.setitem(BACKENDS, "agents", LoopbackAgentsBackend)
    with Executor(max_workers=8, block_allocation=True, backend="agents") as exe:
        dashboard = exe.dashboard()
        wait_until(lambda: len(exe.info["workers"]) == 8, LIMIT_S)
        workers = status_of(dashboard)["workers"]
    assert sorted(host for worker in workers for host in worker["hosts"]) == ["one"] * 4 + ["two"] * 4
    assert {worker["memory_bytes"] for worker in workers} == {None}


def test_graph_shows_calls_that_wait_for_others(exe, tmp_path):
    dashboard = exe.dashboard()
    assert ask(dashboard, "graph").text == ""
    first = exe.submit(nap, tmp_path / "end")
    wait_until(first.running, LIMIT_S)
    second = exe.submit(str, first)
    third = exe.submit(repr, second)
    response = ask(dashboard, "graph")
    (tmp_path / "end").touch()
    assert third.result(LIMIT_S)
    assert response.headers["Content-Type"].startswith("image/svg+xml")
    assert [name for name in ("nap", "str", "repr") if f'data-name="{name}"' in response.text] == ["nap", "str", "repr"]
    assert response.text.count("marker-end") == 2


def test_graph_of_many_inputs_is_limited(exe, monkeypatch):
    monkeypatch.setattr("pympipool.diagnostics.live.graph.INPUTS_MAX", 5)
    inputs = [Future() for _ in range(9)]
    first, second = exe.submit(list, inputs[:3]), exe.submit(tuple, inputs[2:])
    response = ask(exe.dashboard(), "graph")
    for number, future in enumerate(inputs):
        future.set_result(number)
    assert first.result(LIMIT_S) == [0, 1, 2]
    assert second.result(LIMIT_S) == tuple(range(2, 9))
    assert response.text.count('data-name="another future"') == 4
    assert "waits, 5 inputs not drawn" in response.text


# ---- who gets it ----


@pytest.mark.parametrize("path", ["/", "/status", "//status", "/wrong/", "/wrong/status", "/%E4/", "*", "/?x=1"])
def test_without_the_secret_nothing_is_served(exe, path):
    response = ask(exe.dashboard(), path=path)
    assert response.status == 403
    assert "has a secret" in response.text


def test_secret_that_is_no_text_is_refused(exe):
    with socket.create_connection(("127.0.0.1", urlsplit(exe.dashboard().url).port), LIMIT_S) as connection:
        connection.sendall(b"GET /\xe4\xff\x00/ HTTP/1.0\r\n\r\n")
        assert b" 403 Forbidden\r\n" in connection.recv(1000)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", ""])
def test_other_host_names_are_refused(exe, host):
    response = ask(exe.dashboard(), "status", Host=host)
    assert response.status == 403
    assert "allowed_hosts=" in response.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "[::1]:8000", "hub.example:443"])
def test_allowed_host_names_are_served(exe, host):
    assert ask(exe.dashboard(allowed_hosts=["Hub.example"]), "status", Host=host).status == 200


def test_pages_of_others_cannot_read_answers(exe):
    response = ask(exe.dashboard(), "status", Origin="https://evil.example")
    headers = {name.lower(): value for name, value in response.headers.items()}
    assert not [name for name in headers if name.startswith("access-control")]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_get_is_answered(exe, method):
    assert ask(exe.dashboard(), "status", method=method).status == 501


def test_it_listens_on_the_loopback_interface_only(exe):
    port = urlsplit(exe.dashboard().url).port
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


@pytest.fixture
def patient_server(monkeypatch):
    """Have silent connections stay as long as nothing else ends them."""
    monkeypatch.setattr(server._Request, "timeout", 10 * LIMIT_S)
    monkeypatch.setattr(server, "REQUEST_LIMIT_S", 10 * LIMIT_S)


@pytest.mark.usefixtures("patient_server")
def test_the_oldest_silent_connection_gives_way(exe, monkeypatch):
    monkeypatch.setattr(server, "REQUESTS_MAX", 2)
    dashboard = exe.dashboard()
    address = ("127.0.0.1", urlsplit(dashboard.url).port)
    silent = [socket.create_connection(address, LIMIT_S) for _ in range(3)]
    assert silent[0].recv(1) == b""
    assert answers(dashboard)
    assert silent[1].recv(1) == b""
    silent[2].setblocking(False)
    with pytest.raises(BlockingIOError):
        silent[2].recv(1)
    for connection in silent:
        connection.close()


@pytest.mark.usefixtures("patient_server")
def test_connections_with_the_secret_stay(exe, monkeypatch, tmp_path):
    monkeypatch.setattr(server, "REQUESTS_MAX", 1)
    monkeypatch.setattr(server.Site, "_find", lambda *_: nap(tmp_path / "end"))
    dashboard = exe.dashboard()
    parts = urlsplit(dashboard.url)
    address = (parts.hostname, parts.port)
    with socket.create_connection(address, LIMIT_S) as ours:
        ours.sendall(f"GET {parts.path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        wait_until(lambda: None in dashboard._server._connections.values(), LIMIT_S)
        with socket.create_connection(address, LIMIT_S) as other:
            assert other.recv(1) == b""
        assert None in dashboard._server._connections.values()
        (tmp_path / "end").touch()
        assert ours.recv(1) == b""


def test_a_slow_request_is_ended(exe, monkeypatch):
    """Each of its parts comes in time."""
    dashboard = exe.dashboard()
    monkeypatch.setattr(server, "REQUEST_LIMIT_S", 0.5)
    with socket.create_connection(("127.0.0.1", urlsplit(dashboard.url).port), LIMIT_S) as slow:
        slow.sendall(b"GET / HTTP/1.0\r\nName: ")
        slow.setblocking(False)
        wait_until(lambda: has_ended(slow), LIMIT_S)
    monkeypatch.undo()  # a busy machine may take longer for a request
    assert answers(dashboard)


def has_ended(connection):
    """Send a byte; return True if the other side has ended the connection."""
    try:
        connection.sendall(b"x")
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except (BrokenPipeError, ConnectionResetError):
        return True


def answers(dashboard):
    try:
        return ask(dashboard, "status").status == 200
    except (OSError, http.client.HTTPException):
        return False


# ---- its life ----


def test_second_call_returns_the_same(exe):
    dashboard = exe.dashboard()
    assert exe.dashboard() is dashboard
    assert exe.dashboard(port=urlsplit(dashboard.url).port) is dashboard
    with pytest.raises(ValueError, match="has a dashboard, http://127"):
        exe.dashboard(allowed_hosts=["hub.example"])
    dashboard.close()
    assert exe.dashboard(allowed_hosts=["hub.example"]).url != dashboard.url


@pytest.mark.usefixtures("patient_server")
def test_close_ends_the_page_and_no_call(exe):
    dashboard = exe.dashboard()
    silent = socket.create_connection(("127.0.0.1", urlsplit(dashboard.url).port), LIMIT_S)
    assert answers(dashboard)
    dashboard.close()
    dashboard.close()
    assert silent.recv(1) == b""
    assert not answers(dashboard)
    assert repr(dashboard) == "<Dashboard, closed>"
    assert exe.submit(abs, -1).result() == 1
    silent.close()


@pytest.mark.parametrize("end", [Executor.shutdown, Executor.kill_workers, lambda exe: exe.shutdown(wait=False)])
def test_it_ends_with_the_executor(end):
    exe = Executor(max_workers=1, block_allocation=True, backend="mpi")
    dashboard = exe.dashboard()
    end(exe)
    wait_until(lambda: dashboard.is_closed and not answers(dashboard), LIMIT_S)
    with pytest.raises(RuntimeError, match="is shut down"):
        exe.dashboard()


def test_it_shows_calls_that_end_after_shutdown(tmp_path):
    exe = Executor(max_workers=1, block_allocation=True, backend="mpi")
    dashboard = exe.dashboard()
    call = exe.submit(nap, tmp_path / "end")
    exe.shutdown(wait=False)
    assert status_of(dashboard)["executor"]["state"] == "shut down"
    (tmp_path / "end").touch()
    call.result(LIMIT_S)
    wait_until(lambda: dashboard.is_closed, LIMIT_S)


def test_it_does_not_keep_a_dropped_executor():
    exe = Executor(max_workers=1, block_allocation=True, backend="mpi")
    dashboard = exe.dashboard()
    del exe
    gc.collect()
    wait_until(lambda: dashboard.is_closed and not answers(dashboard), LIMIT_S)


def test_its_thread_sleeps_while_nobody_looks(exe):
    dashboard = exe.dashboard()
    assert answers(dashboard)
    (thread,) = [one for one in threading.enumerate() if one.name == "pympipool_dashboard"]

    def switches():
        lines = Path(f"/proc/self/task/{thread.native_id}/status").read_text().splitlines()
        return [line for line in lines if "ctxt_switches" in line]

    def sleeps():
        before = switches()
        time.sleep(0.7)  # nothing happens in this time, which cannot be waited for
        return switches() == before

    wait_until(sleeps, LIMIT_S)  # it has still to do with the last request


def test_forked_child_does_not_keep_the_port():
    with Executor(max_workers=1, block_allocation=True, backend="mpi") as exe:
        dashboard = exe.dashboard()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            dashboard.close()  # of the parent: nothing happens
            os.read(reader, 1)
            os._exit(0)
        os.close(reader)
        try:
            assert answers(dashboard)
            dashboard.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", urlsplit(dashboard.url).port), LIMIT_S).close()
        finally:
            os.close(writer)
            os.waitpid(child, 0)


@pytest.mark.parametrize("last", ["", "exe.shutdown()", "raise SystemExit(0)"])
def test_script_with_open_page_ends(tmp_path, last):
    source = f"""
import socket
from urllib.parse import urlsplit
from pympipool import Executor
exe = Executor(max_workers=1, block_allocation=True)
url = exe.dashboard().url
silent = socket.create_connection(("127.0.0.1", urlsplit(url).port))
print(exe.submit(abs, -1).result(), flush=True)
{last}
"""
    with Script(source, tmp_path) as script:
        assert script.end()[:2] == (0, "1\n")


# ---- wrong uses ----


def test_port_that_is_taken_is_named(exe):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"no dashboard at port {port} .*: leave out port for a free one"):
            exe.dashboard(port=port)
    assert answers(exe.dashboard())


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"port": "80"}, TypeError, "port is '80'"),
        ({"port": True}, TypeError, "port is True"),
        ({"port": -1}, ValueError, "port is -1"),
        ({"port": 65536}, ValueError, "port is 65536"),
        ({"allowed_hosts": "hub.example"}, TypeError, "allowed_hosts is 'hub.example'; it must be a list"),
        ({"allowed_hosts": [3]}, TypeError, "allowed_hosts is"),
        ({"allowed_hosts": 3}, TypeError, "allowed_hosts is 3"),
        ({"allowed_hosts": ["https://hub.example/"]}, ValueError, "must be a name alone"),
        ({"allowed_hosts": ["*"]}, ValueError, "must be a name alone"),
    ],
)
def test_wrong_arguments_are_named(exe, arguments, error, text):
    with pytest.raises(error, match=text.replace("*", r"\*")):
        exe.dashboard(**arguments)


def test_executors_without_workers_have_none(tmp_path):
    with Executor(backend="serial") as exe, pytest.raises(ValueError, match="has no workers to watch"):
        exe.dashboard()
    drawing = Executor(plot_dependency_graph_filename=tmp_path / "graph.svg")
    with drawing as exe, pytest.raises(ValueError, match="has no workers to watch"):
        exe.dashboard()


# ---- in a notebook ----


def test_notebook_shows_the_page_in_a_frame(exe, monkeypatch):
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    dashboard = exe.dashboard()
    assert f'<iframe src="{dashboard.url}"' in dashboard._repr_html_()
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/me/")
    parts = urlsplit(dashboard.url)
    assert f'<iframe src="/user/me/proxy/{parts.port}{parts.path}"' in dashboard._repr_html_()
    dashboard.close()
    assert "<iframe" not in dashboard._repr_html_()
