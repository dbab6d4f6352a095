"""Helpers of spawners are checked for as long as they ask for it, whatever a check raises."""

from __future__ import annotations

import threading

from pympipool._util.service_threads import flush_records
from pympipool.pool import helper_checks
from pympipool.pool.event_loop import EventLoop
from pympipool.pool.helper_checks import HelperChecks
from support.waiting import wait_until

LIMIT_S = 60.0


class FailingOnce:
    """Asks to be checked again, but for its second check, which raises, and the fourth."""

    def __init__(self):
        self.checks = 0
        self.is_done = threading.Event()

    def check(self):
        self.checks += 1
        if self.checks == 2:
            raise MemoryError
        if self.checks < 4:
            return 0.001
        self.is_done.set()
        return None


def test_check_that_raises_is_repeated(monkeypatch):
    monkeypatch.setattr(helper_checks, "CHECK_AGAIN_S", 0.001)

    def go_on():
        checks.go_on()

    loop = EventLoop("checks", at_exit=lambda: None, on_failure=go_on)
    checks = HelperChecks(loop)
    helper = FailingOnce()
    loop.start()
    loop.call(lambda: checks.check_after(helper, 0.0))
    assert helper.is_done.wait(LIMIT_S)
    loop.call(lambda: checks.check_after(helper, 0.0))
    wait_until(lambda: helper.checks == 5)
    loop.call(loop.stop)
    loop.thread.join(LIMIT_S)
    loop.close()
    flush_records()
