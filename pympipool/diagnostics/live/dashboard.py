"""`Executor.dashboard`: a web page that shows what the executor does.

    Executor.dashboard ─► open_dashboard ─► Dashboard ─► Server ─► Site ─► live_status, the same that `pympipool top` shows
    the pool has ended ─► the server ends

Nothing here refers to the executor, so that Python can collect it.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from pympipool.diagnostics.live.graph import draw_waiting
from pympipool.diagnostics.live.report import add_memory
from pympipool.diagnostics.live.server import ADDRESS, Server, Site

if TYPE_CHECKING:
    from pympipool.execution.engine import Engine

CLOSE_LIMIT_S = 5.0
"""Longest wait for the end of the server's thread."""

FRAME_HEIGHT = 560
"""Height of the page in a notebook, in pixels."""


class Dashboard:
    """The web page of an executor, which `Executor.dashboard` makes.

    Attributes:
        url: Its address, with a secret that only you should know.

    Examples:
        >>> from pympipool import Executor
        >>> with Executor(max_workers=1) as exe:
        ...     page = exe.dashboard()
        ...     page
        <Dashboard http://127.0.0.1:.../.../>
        >>> page
        <Dashboard, closed>
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.url = server.url

    @property
    def is_closed(self) -> bool:
        """True after its end, or that of the executor."""
        return self._server.is_closed

    def close(self) -> None:
        """Serve the page no more. Calls and workers go on."""
        self._server.close(CLOSE_LIMIT_S)

    def has(self, port: int, allowed_hosts: Sequence[str]) -> bool:
        """Return True if it is what these arguments of `Executor.dashboard` ask for."""
        return port in (0, self._server.port) and self._server.site.allows(allowed_hosts)

    def __repr__(self) -> str:
        return "<Dashboard, closed>" if self.is_closed else f"<Dashboard {self.url}>"

    def _repr_html_(self) -> str:
        """Return the page in a frame. Under JupyterHub it comes through Jupyter's proxy."""
        if self.is_closed:
            return escape(repr(self))
        prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "")
        path = f"proxy/{self._server.port}/{self._server.site.secret}/"
        address = escape(f"{prefix.rstrip('/')}/{path}" if prefix else self.url)
        return (
            f'<p><a href="{address}" target="_blank" rel="noreferrer">Dashboard in a window of its own</a></p>'
            f'<iframe src="{address}" title="dashboard" referrerpolicy="no-referrer" width="100%" height="{FRAME_HEIGHT}"'
            ' style="border: 0; border-radius: 8px"></iframe>'
        )


def open_dashboard(
    engine: Engine, status: Callable[[], dict[str, Any] | None], port: int, allowed_hosts: Sequence[str]
) -> Dashboard:
    """Return the dashboard of an executor's engine; make it if there is none. See `Executor.dashboard`."""
    _check(port, allowed_hosts)
    if not engine.is_open:
        if engine.in_forked_child:
            engine.check_open()
        raise RuntimeError("the executor is shut down: make its dashboard before")
    existing = _dashboards.get(engine)
    if existing is not None and not existing.is_closed:
        if not existing.has(port, allowed_hosts):
            raise ValueError(
                f"the executor has a dashboard, {existing.url}: close() it to make one with other arguments"
            )
        return existing

    def status_with_memory() -> dict[str, Any] | None:
        found = status()
        return None if found is None else add_memory(found)

    weak = weakref.ref(engine)
    try:
        server = Server(port, Site(status_with_memory, lambda: draw_waiting(weak), allowed_hosts))
    except (OSError, OverflowError) as error:
        raise OSError(
            getattr(error, "errno", None),
            f"no dashboard at port {port} of {ADDRESS} ({error}): leave out port for a free one",
        ) from error
    _dashboards[engine] = dashboard = Dashboard(server)
    engine.pool.call_when_closed(server.close)
    return dashboard


_dashboards: weakref.WeakKeyDictionary[Engine, Dashboard] = weakref.WeakKeyDictionary()


def _check(port: Any, allowed_hosts: Any) -> None:
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port is {port!r}; it must be an integer")
    if not 0 <= port <= 65535:
        raise ValueError(f"port is {port}; it must be from 0 to 65535, and 0 is any that is free")
    is_list = isinstance(allowed_hosts, Collection) and not isinstance(allowed_hosts, str)
    if not is_list or not all(isinstance(name, str) for name in allowed_hosts):
        raise TypeError(f"allowed_hosts is {allowed_hosts!r}; it must be a list of names, such as ['hub.example.org']")
    for name in allowed_hosts:
        if not name or set(name) & set("/:@ *"):
            raise ValueError(
                f"allowed_hosts has {name!r}; it must be a name alone, such as 'hub.example.org', without a port"
            )
