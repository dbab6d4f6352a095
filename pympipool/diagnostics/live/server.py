"""Serve the page of a dashboard to browsers on this host that know its secret.

    browser ── GET /SECRET/status ──► accepting thread ─► a thread for the request ─► Site.answer ─► page, or status as JSON

The accepting thread sleeps until a browser connects. All that is refused is refused before anything of the executor is looked at.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import selectors
import socket
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from time import monotonic, sleep
from typing import Any, NamedTuple

from pympipool._util.platform import on_fork
from pympipool._util.service_threads import ServiceThread

LOGGER = logging.getLogger("pympipool.dashboard")

ADDRESS = "127.0.0.1"

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
"""Names by which browsers know this host. Another one may be that of an attacker's page, whose name has been made to lead here."""

REQUESTS_MAX = 32
"""Connections that are served at the same time. Other users of this host can connect too, but not use up our threads: if there
are more, the oldest one that has not sent the secret gives way."""

REQUEST_LIMIT_S = 10.0
"""How long it may take until a connection has sent the secret, and how long sending an answer may take."""

ACCEPT_PAUSE_S = 0.2
"""Pause after a connection could not be accepted, because no descriptor is free."""

PAGE = Path(__file__).with_name("page")
FILES = {
    "": ("index.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
}

# Nothing from elsewhere, and no scripts but ours. The graph has a style of its own. Notebooks show the page in a frame.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self';"
    " img-src data:; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Answer(NamedTuple):
    """What a browser gets."""

    status: HTTPStatus
    kind: str
    content: bytes


def _refuse(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, "text/plain", f"{text}\n".encode())


class Site:
    """Decides who gets what.

    Args:
        status: Returns the status of the executor; None if it is gone.
        graph: Returns the graph of its calls as SVG.
        allowed_hosts: Names of this server besides those of the loopback interface.

    Attributes:
        secret: The first part of each path.
    """

    def __init__(
        self, status: Callable[[], dict[str, Any] | None], graph: Callable[[], str], allowed_hosts: Sequence[str]
    ) -> None:
        self._status = status
        self._graph = graph
        self._hosts = {name.lower() for name in (*LOOPBACK_NAMES, *allowed_hosts)}
        self.secret = secrets.token_urlsafe(24)

    def allows(self, hosts: Sequence[str]) -> bool:
        """Return True if all these names are allowed."""
        return self._hosts.issuperset(name.lower() for name in hosts)

    def has_secret(self, path: str) -> bool:
        """Return True if the first part of a path is the secret."""
        parts = path.partition("?")[0].split("/", 2)
        secret = parts[1] if len(parts) > 1 else ""
        return hmac.compare_digest(secret.encode(errors="replace"), self.secret.encode())

    def answer(self, path: str, host: str) -> Answer:
        """Answer a request.

        Args:
            path: As the browser sends it, such as "/SECRET/status".
            host: The header "Host".
        """
        if not self.has_secret(path):
            return _refuse(
                HTTPStatus.FORBIDDEN, "The address of a dashboard has a secret in it: exe.dashboard().url has it."
            )
        known_as = re.sub(r":\d+$", "", host.strip().lower())
        if known_as not in self._hosts:
            return _refuse(
                HTTPStatus.FORBIDDEN,
                f"This dashboard is not served under the name {known_as!r}. If that is the name of a proxy of yours, allow it:"
                f" exe.dashboard(allowed_hosts=[{known_as!r}])",
            )
        parts = path.partition("?")[0].split("/", 2)
        return self._find(parts[2] if len(parts) == 3 else None)

    def _find(self, name: str | None) -> Answer:
        if name in FILES:
            file, kind = FILES[name]
            return Answer(HTTPStatus.OK, kind, PAGE.joinpath(file).read_bytes())
        if name == "status":
            status = self._status()
            if status is None:
                return _refuse(HTTPStatus.GONE, "The executor has ended.")
            return Answer(HTTPStatus.OK, "application/json", json.dumps(status).encode())
        if name == "graph":
            return Answer(HTTPStatus.OK, "image/svg+xml", self._graph().encode())
        return _refuse(HTTPStatus.NOT_FOUND, "A dashboard has no such page.")


class _Request(BaseHTTPRequestHandler):
    timeout = REQUEST_LIMIT_S

    def do_GET(self) -> None:
        server: Any = self.server
        if server.site.has_secret(self.path):
            server.trust(self.request)
        answer = server.site.answer(self.path, self.headers.get("Host", ""))
        self.send_response(answer.status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{answer.kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def version_string(self) -> str:
        return "pympipool"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  a name of the standard library
        """Log nothing: a path has the secret."""


class Server(ThreadingTCPServer):
    """Answers browsers from threads of its own, until it is closed.

    Args:
        port: Port to listen at; 0: any that is free.
        site: Answers them.

    Raises:
        OSError: The port is taken.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32
    timeout = 0  # of `handle_request`, which is called when there is one

    def __init__(self, port: int, site: Site) -> None:
        self.site = site
        self.is_closed = False
        self._connections: dict[
            socket.socket, float | None
        ] = {}  # oldest first; the time at which it ends without the secret
        super().__init__((ADDRESS, port), _Request)
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._thread = ServiceThread("pympipool_dashboard", self._run)
        _servers.add(self)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.port}/{self.site.secret}/"

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return int(self.server_address[1])

    def close(self, timeout_s: float = 0.0) -> None:
        """Have it end, and wait for that at most so long. It may be called again, in any thread."""
        self.is_closed = True
        with suppress(OSError):  # it has ended
            self._waker.send(b"\0")
        if timeout_s > 0:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while not self.is_closed:
                selector.select(self._end_late())
                if not self.is_closed:
                    self.handle_request()
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._end(self.socket)  # also where a child that was forked a moment ago has not closed its copy yet
        self.server_close()
        for connection in list(self._connections):
            self._end(connection)
        self._wake.close()
        self._waker.close()

    def _end(self, connection: socket.socket) -> None:
        self._connections.pop(connection, None)
        with suppress(OSError):  # its thread has closed it; or, on macOS, it listens
            connection.shutdown(socket.SHUT_RDWR)

    def _without_secret(self) -> list[tuple[socket.socket, float]]:
        """Return the connections that have not sent the secret, the oldest one first, and when they end."""
        return [(one, end_s) for one, end_s in self._connections.copy().items() if end_s is not None]

    def _end_late(self) -> float | None:
        """End connections that have not sent the secret in time; return for how long (s) there will be no other one.

        A limit for each part of a request would not do: one can send a byte now and then.
        """
        for connection, end_s in self._without_secret():
            remaining_s = end_s - monotonic()
            if remaining_s > 0:
                return remaining_s
            self._end(connection)
        return None

    def trust(self, connection: socket.socket) -> None:
        """Note that a connection has sent the secret."""
        if connection in self._connections:
            self._connections[connection] = None

    # ---- of the standard library ----

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            sleep(ACCEPT_PAUSE_S)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if len(self._connections) >= REQUESTS_MAX:
            for connection, _ in self._without_secret()[:1]:
                self._end(connection)
        return len(self._connections) < REQUESTS_MAX

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections[request] = monotonic() + REQUEST_LIMIT_S
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        LOGGER.debug("a request was not answered: %r", sys.exc_info()[1])

    def after_fork_in_child(self) -> None:
        """Close what a forked child has inherited: it would keep the port."""
        self.is_closed = True
        for one in (self.socket, self._wake, self._waker, *self._connections):
            one.close()


_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for server in list(_servers):
        server.after_fork_in_child()


on_fork(in_child=_after_fork_in_child)
