"""A Jupyter kernel as a notebook uses it, and its cells: code in, output and errors out."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from jupyter_client import KernelManager

CELL_S = 120.0
"""Seconds that a cell may take."""

SILENCE_S = 3.0
"""Seconds without a message after which a second client connects to the kernel.

ipykernel 7 may not notice a request that arrives while it answers another one, until another client connects
(github.com/ipython/ipykernel/issues/1554; often with Python 3.10).
"""


@dataclass
class Cell:
    """The output of one cell.

    Attributes:
        stdout: Text that the kernel and its workers printed to stdout.
        stderr: Text that the kernel and its workers printed to stderr.
        value: The value of the last expression, as text.
        html: The value of the last expression as HTML, as a notebook shows it; "" if it has no HTML.
        displays: Further displayed objects, each a dict from MIME type to content: {"image/svg+xml": ...}.
        error: Name and message of the exception that ended the cell, "" if there was none.
    """

    stdout: str = ""
    stderr: str = ""
    value: str = ""
    html: str = ""
    displays: list[dict[str, str]] = field(default_factory=list, repr=False)
    error: str = ""
    is_idle: bool = field(default=False, repr=False)

    def add(self, message: dict) -> None:
        content = message["content"]
        match message["msg_type"]:
            case "stream":
                setattr(self, content["name"], getattr(self, content["name"]) + content["text"])
            case "execute_result":
                self.value = content["data"]["text/plain"]
                self.html = content["data"].get("text/html", "")
            case "display_data":
                self.displays.append(content["data"])
            case "error":
                self.error = f"{content['ename']}: {content['evalue']}"
            case "status":
                self.is_idle = content["execution_state"] == "idle"


class Kernel:
    """A running kernel.

    Args:
        folder: The working directory of the kernel.
        environment: The environment variables of the kernel; it inherits no others.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder), env=environment)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=CELL_S)

    def run(self, code: str, *, until: str = "", interrupt_at: str = "") -> Cell:
        """Run a cell to its end and return its output.

        Args:
            code: The source of the cell.
            until: Wait after the end of the cell until this text was printed, to stdout or stderr.
            interrupt_at: Interrupt the cell, as the notebook's stop button does, as soon as this text was printed.
        """
        cell = Cell()
        number = self.client.execute(code)
        deadline = monotonic() + CELL_S
        while not (cell.is_idle and until in cell.stdout + cell.stderr):
            left_s = max(deadline - monotonic(), 0)
            try:
                message = self.client.get_iopub_msg(timeout=min(left_s, SILENCE_S))
            except queue.Empty:
                if left_s == 0:
                    raise
                self._connect_second_client()
                continue
            if message["parent_header"].get("msg_id") == number:
                cell.add(message)
            if interrupt_at and interrupt_at in cell.stdout:
                interrupt_at = ""
                self.manager.interrupt_kernel()
        return cell

    def _connect_second_client(self) -> None:
        another = self.manager.client()
        another.start_channels(iopub=False, stdin=False, hb=False, control=False)
        another.kernel_info()
        another.stop_channels()

    def close(self) -> None:
        """Shut the kernel down, as the notebook's menu does."""
        self.client.stop_channels()
        self.manager.shutdown_kernel()
