"""A kernel as a notebook has it, and its cells: code in, output and errors out."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from jupyter_client import KernelManager

CELL_S = 120.0
"""How long a cell may take."""

SILENCE_S = 3.0
"""After which somebody else connects to the kernel: ipykernel 7 may not notice a request that comes while it answers another one,
until then (github.com/ipython/ipykernel/issues/1554; often with Python 3.10)."""


@dataclass
class Cell:
    """What one cell has shown.

    Attributes:
        stdout: Printed, also by workers.
        stderr: Likewise.
        value: Of the last expression, as text.
        html: Likewise, as a notebook shows it; "" when it has no such form.
        displays: What was displayed besides, by its type: {"image/svg+xml": ...}.
        error: Name and message of the exception that ended it, "" when there was none.
    """

    stdout: str = ""
    stderr: str = ""
    value: str = ""
    html: str = ""
    displays: list[dict[str, str]] = field(default_factory=list, repr=False)
    error: str = ""
    is_idle: bool = field(default=False, repr=False)

    def take(self, message: dict) -> None:
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
        folder: Where it works.
        environment: All of its environment.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder), env=environment)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=CELL_S)

    def run(self, code: str, *, until: str = "", interrupt_at: str = "") -> Cell:
        """Runs a cell to its end; what it has shown.

        Args:
            until: Goes on after its end until this was printed.
            interrupt_at: Interrupts it, as the button with the square does, as soon as this was printed.
        """
        cell = Cell()
        number = self.client.execute(code)
        deadline = monotonic() + CELL_S
        while not (cell.is_idle and until in cell.stdout):
            left_s = max(deadline - monotonic(), 0)
            try:
                message = self.client.get_iopub_msg(timeout=min(left_s, SILENCE_S))
            except queue.Empty:
                if left_s == 0:
                    raise
                self._nudge()
                continue
            if message["parent_header"].get("msg_id") == number:
                cell.take(message)
            if interrupt_at and interrupt_at in cell.stdout:
                interrupt_at = ""
                self.manager.interrupt_kernel()
        return cell

    def _nudge(self) -> None:
        another = self.manager.client()
        another.start_channels(iopub=False, stdin=False, hb=False, control=False)
        another.kernel_info()
        another.stop_channels()

    def close(self) -> None:
        """Ends it as the menu does."""
        self.client.stop_channels()
        self.manager.shutdown_kernel()
