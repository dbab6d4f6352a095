"""Asks flux instances on other hosts about jobs, by the URIs of flux that use ssh, in a process of its own.

    ask ── stdin: URI, function, jobs ──> main ── flux.Flux("ssh://HOST/PATH") ── ssh ──> flux relay ──> the broker there
        <── stdout: states, or why not ──

The process has no terminal, so that ssh asks nothing. It is killed with its ssh when it takes too long.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection
from typing import Any

from pympipool._util import signals, subprocesses
from pympipool._util.import_path import import_path, package_folder
from pympipool.backends.program import program_command
from pympipool.detached import flux_jobs
from pympipool.detached.flux_jobs import Job, States
from pympipool.detached.schedulers import State, TaskState
from pympipool.errors import WorkerStartError

__all__ = ["ask", "main", "ssh_uri"]

ANSWER_TIMEOUT_S = 20.0
"""Seconds that an instance on another host may take to answer; usually it takes less than one."""

_LOCAL = "local://"
_NO_BROKER = ("No such file or directory", "Connection refused")
"""What `flux relay` says of the socket of a broker that has ended."""

_FUNCTIONS = {"look": flux_jobs.look, "cancel": flux_jobs.cancel, "find": flux_jobs.find}


def ssh_uri(host: str, local_uri: str) -> str:
    """Return the URI by which other hosts reach a broker.

    Examples:
        >>> ssh_uri("node7", "local:///tmp/flux-x/local-0")
        'ssh://node7/tmp/flux-x/local-0'
    """
    return f"ssh://{host}{local_uri.removeprefix(_LOCAL)}"


def ask(uri: str, function: str, jobs: Collection[Job]) -> States:
    """Ask the instance on another host.

    Args:
        uri: How it is reached.
        function: "look", "cancel" or "find" (see `flux_jobs`).
        jobs: The jobs.

    Raises:
        FileNotFoundError: That instance has ended.
        WorkerStartError: It cannot be asked, or does not answer; tells why.
    """
    path = [entry for entry in import_path() if isinstance(entry, str)]
    question = {"uri": uri, "function": function, "jobs": sorted(jobs), "path": path}
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "SSH_ASKPASS")}
    try:
        process = subprocesses.Popen(
            program_command("pympipool.detached.flux_elsewhere"),
            env={**environment, "PYMPIPOOL_PATH": package_folder()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:  # this Python was replaced or removed: that tells nothing of the instance
        raise WorkerStartError(f"{uri} cannot be asked: {error}") from error
    with process:
        try:
            output, stderr = process.communicate(json.dumps(question), ANSWER_TIMEOUT_S)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise WorkerStartError(f"{uri} does not answer within {ANSWER_TIMEOUT_S:g} s") from None
            raise
    try:
        answer = json.loads(next(reversed(output.splitlines()), ""))  # a sitecustomize may have printed more
        if not isinstance(answer, dict):
            raise ValueError(answer)
    except ValueError:
        raise WorkerStartError(f"{uri} cannot be asked: {_last_line(stderr)}") from None
    if "error" in answer:
        raise WorkerStartError(f"{uri} cannot be asked: {_last_line(answer['error'])}")
    if answer["states"] is None:
        raise FileNotFoundError(uri)
    return {Job(*job): TaskState(State[name], words) for job, name, words in answer["states"]}


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "no reason is given")


def main() -> None:
    """Answer the question that is read from stdin."""
    signals.reset()
    question = json.load(sys.stdin)
    sys.path[:] = question["path"]
    print(f"\n{json.dumps(_answer(question))}")


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    import flux

    try:
        handle = flux.Flux(question["uri"])
        states = _FUNCTIONS[question["function"]](handle, [Job(*job) for job in question["jobs"]])
    except OSError as error:
        text = str(error.strerror or error)
        return {"states": None} if _LOCAL in text and any(reason in text for reason in _NO_BROKER) else {"error": text}
    return {"states": [(job, state.state.name, state.words) for job, state in states.items()]}
