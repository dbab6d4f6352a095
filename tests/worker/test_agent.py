"""The agent's connection to the relay: which of its losses are the end of the relay."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from pathlib import Path

import pytest

import pympipool
from pympipool.backends.agent.launcher import agent_command
from pympipool.backends.program import worker_environment
from pympipool.backends.spawner import LaunchRequest
from pympipool.transport.bootstrap import WorkerConfig
from pympipool.transport.tcp.handshake import receive_token, server_context, server_handshake, server_socket
from pympipool.transport.tcp.stream import AGENT
from pympipool.worker import agent_connection
from transport.connections import LIMIT_S, reset

pytestmark = pytest.mark.timeout(60)

KEY = bytes(32)
NAME = b"name of the agent"


class TinyRelay:
    """Accepts the connections of an agent, and no more.

    Attributes:
        address: Where it listens.
        agents: For each connection of an agent: the stream, the keepalive connection, and the name that the agent has given.
        report: What the last one has told of its host.
    """

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LIMIT_S)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.agents = []

    def accept(self, *, answers=True):
        """Wait until an agent has connected; return what is added to `agents`."""
        stream = server_handshake(server_socket(self._listener.accept()[0], server_context()), KEY, bytes(16))
        keepalive = self._listener.accept()[0]
        receive_token(keepalive)
        kind, _, _, (self.report, name) = stream.receive()
        assert kind == AGENT
        if answers:
            stream.send(AGENT, 0, 0, [NAME])
        self.agents.append((stream, keepalive, bytes(name)))
        return self.agents[-1]

    def close(self):
        self._listener.close()
        for stream, keepalive, _ in self.agents:
            stream.close()
            keepalive.close()


@pytest.fixture
def relay():
    relay = TinyRelay()
    yield relay
    relay.close()


@pytest.fixture
def process(relay, monkeypatch):
    """Return the process of an agent."""
    monkeypatch.setenv("SLURMD_NODENAME", "name-in-slurm")
    with started(relay) as process:
        yield process


@contextlib.contextmanager
def started(relay, **variables):
    settings = {
        "PYMPIPOOL_ADDRESS": "@none",
        "PYMPIPOOL_KEY": KEY.hex(),
        "PYMPIPOOL_PATH": str(Path(pympipool.__file__).parents[1]),
        "PYMPIPOOL_WORKER": "0",
        "PYMPIPOOL_RANKS": "1",
        "PYMPIPOOL_TCP": relay.address,
        **variables,
    }
    environment = worker_environment(LaunchRequest(0, environment=settings))
    with subprocess.Popen(agent_command(), env=environment, stdout=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def close_frames(stream, keepalive):
    stream.close()


def reset_frames(stream, keepalive):
    reset(stream.detach()[0])


def reset_keepalive(stream, keepalive):
    reset(keepalive)


def reset_both(stream, keepalive):
    reset(stream.detach()[0])
    reset(keepalive)


def test_agent_has_the_name_that_its_launcher_knows(relay, monkeypatch):
    """`srun --nodelist` must find its host, if the agent has to be launched again."""
    monkeypatch.setenv("SLURMD_NODENAME", "name-in-slurm")
    with started(relay, PYMPIPOOL_NAME_VARIABLE="SLURMD_NODENAME"):
        stream, keepalive, _ = relay.accept()
        assert b"name-in-slurm" in bytes(relay.report)
        stream.close()
        keepalive.close()


def test_agent_of_another_launcher_has_its_own_name(relay, process):
    """In a flux instance within a job of SLURM, the variable is that of the script's host."""
    stream, keepalive, _ = relay.accept()
    assert socket.gethostname().encode() in bytes(relay.report)
    stream.close()
    keepalive.close()


@pytest.mark.parametrize("lose", [close_frames, reset_frames, reset_keepalive, reset_both])
def test_agent_connects_again_to_its_relay(relay, process, lose):
    stream, keepalive, name = relay.accept()
    assert name == b""
    lose(stream, keepalive)
    stream, keepalive, name = relay.accept()
    assert name == NAME
    stream.close()  # the relay hangs up
    keepalive.close()
    assert process.wait(LIMIT_S) == 0


def accept_in_thread(relay, **parameters):
    thread = threading.Thread(target=relay.accept, kwargs=parameters)
    thread.start()
    return thread


def config_for(*addresses):
    return WorkerConfig("@none", KEY, worker=0, ranks=1, launcher="", tcp_addresses=addresses)


def test_relay_that_does_not_answer_is_given_up(relay, monkeypatch):
    monkeypatch.setattr(agent_connection, "HANDSHAKE_TIMEOUT_S", 0.1)
    thread = accept_in_thread(relay, answers=False)
    with pytest.raises(TimeoutError):
        agent_connection.AgentConnection(config_for(relay.address), {})
    thread.join(LIMIT_S)
    ((stream, keepalive, _),) = relay.agents
    keepalive.settimeout(LIMIT_S)
    assert keepalive.recv(1) == b""
    with pytest.raises(EOFError):
        stream.receive()


def test_only_working_address_is_tried_again(relay):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nothing listens there
        refusing = f"127.0.0.1:{unused.getsockname()[1]}"
        config = config_for(refusing, relay.address)
        thread = accept_in_thread(relay)
        connection = agent_connection.AgentConnection(config, {})
        thread.join(LIMIT_S)
    assert config.tcp_addresses == (relay.address,)
    connection.frames.detach()
    connection.keepalive.close()
