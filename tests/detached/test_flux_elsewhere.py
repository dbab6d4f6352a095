"""The program that asks flux instances on other hosts, with a module in place of flux. With a real flux: tests/flux_framework."""

import sys

import pytest

from pympipool.detached import flux_elsewhere
from pympipool.detached.flux_jobs import Job
from pympipool.errors import WorkerStartError

URI = "ssh://node7/tmp/flux/local-0"


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Return a function that asks while the handles of flux are made by this code."""

    monkeypatch.syspath_prepend(tmp_path)  # here, as it keeps the path of now, and not what a test makes of it

    def ask_with(code):
        (tmp_path / "flux.py").write_text(f"import time\nclass Flux:\n    def __init__(self, uri):\n        {code}\n")
        return flux_elsewhere.ask(URI, "look", [Job("fA", "pympipool-0")])

    return ask_with


def test_missing_socket_is_an_ended_instance(ask):
    with pytest.raises(FileNotFoundError):
        ask("raise OSError(104, 'flux-relay: local:///tmp/flux/local-0: No such file or directory')")


def test_last_words_of_ssh_are_told(ask):
    with pytest.raises(WorkerStartError, match=rf"{URI} cannot be asked: ssh: connect to host node7: No route to host"):
        ask("raise OSError(104, 'a banner\\nssh: connect to host node7: No route to host')")


def test_broken_bindings_are_told(ask):
    with pytest.raises(WorkerStartError, match="cannot be asked: ImportError: no libflux"):
        ask("raise ImportError('no libflux')")


@pytest.mark.parametrize("last_line", ["1", "null", '["states"]'])
def test_other_output_of_json_is_no_answer(ask, last_line):
    with pytest.raises(WorkerStartError, match="cannot be asked: made up"):
        ask(f"import os; print({last_line!r}, flush=True); os.write(2, b'made up'); os._exit(1)")


def test_output_and_paths_of_bytes_do_no_harm(ask, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, b"/bytes"])
    with pytest.raises(FileNotFoundError):
        ask("print('hello', end=''); raise OSError(104, 'local:///tmp/flux/local-0: No such file or directory')")


def test_a_missing_python_ends_no_instance(ask, monkeypatch):
    monkeypatch.setattr(flux_elsewhere, "program_command", lambda _: ["/nowhere/python"])
    with pytest.raises(WorkerStartError, match=r"cannot be asked: .*No such file"):
        ask("pass")


def test_host_that_hangs_is_given_up(ask, monkeypatch):
    monkeypatch.setattr(flux_elsewhere, "ANSWER_TIMEOUT_S", 0.5)
    with pytest.raises(WorkerStartError, match=r"does not answer within 0.5 s"):
        ask("time.sleep(600)")
