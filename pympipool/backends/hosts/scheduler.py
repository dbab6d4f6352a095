"""What a scheduler's file declares: how a job is recognized, where its hosts are listed, and what starts programs there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pympipool.backends.hosts.shells import Shell
from pympipool.resources import Host


class Scheduler(NamedTuple):
    """A scheduler, in whose jobs workers run on all hosts of the job.

    Attributes:
        backend: The name of the backend.
        title: Its name in messages.
        variables: The environment variables of which its jobs have at least one.
        submit: The command that submits a job.
        hosts_of_job: Returns the hosts of the job that has an environment; none outside of a job.
        shell: Makes what starts a program on a host of the job.
    """

    backend: str
    title: str
    variables: tuple[str, ...]
    submit: str
    hosts_of_job: Callable[[Mapping[str, str]], tuple[Host, ...]]
    shell: Callable[[], Shell]

    def unavailable_reason(self, environ: Mapping[str, str]) -> str | None:
        """Return why it cannot be used in this environment; None if it can."""
        found = [name for name in self.variables if environ.get(name)]
        if not found:
            return (
                f"this script runs in no job of {self.title}: its environment has no {' and no '.join(self.variables)}"
            )
        try:
            hosts = self.hosts_of_job(environ)
        except ValueError as error:
            return f"the hosts of the job of {self.title} are not known: {error}"
        return None if hosts else f"{found[0]} names no hosts"
