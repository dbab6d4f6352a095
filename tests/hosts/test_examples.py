"""The examples of the specification, on hosts that are reached by ssh and by mpiexec."""

from __future__ import annotations

import socket

import pytest

from support.scripts import run_script
from support.spec_examples import scripts


@pytest.mark.parametrize(("source", "printed"), scripts("ssh"))
def test_specification_example_prints_its_documented_output(way, tmp_path, source, printed):
    (tmp_path / "notebooks").mkdir()
    if "hosts" in way and "hostname_localhost=True" in source:
        way = {**way, "hosts": [socket.gethostname()]}  # of others it says that they cannot connect
    elif "hostname_localhost=True" in source:
        pytest.skip("with hostname_localhost=True the hosts of a job cannot connect: it is tried with ssh")
    assert run_script(placed(source, way), tmp_path).strip() == printed


def placed(source, way):
    """Return the example with its workers on the hosts."""
    source = source.replace("command_line_argument_lst=[],", "")
    if "hosts" not in way:
        return source.replace('backend="ssh"', f'backend="{way["backend"]}"')
    parameters = ", ".join(f"{name}={value!r}" for name, value in way.items())
    return source.replace('backend="ssh"', f'backend="ssh", {parameters}')
