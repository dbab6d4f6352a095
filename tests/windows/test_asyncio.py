"""Calls that coroutines of asyncio's default loop await. On Windows this loop watches no descriptors."""

import asyncio
import os
import socket
import time

LIMIT_S = 60


def sleep_and_return(seconds, value):
    time.sleep(seconds)
    return value


def test_coroutines_await_short_and_long_calls(make, monkeypatch):
    made = []
    for module, name in ((socket, "socketpair"), (os, "eventfd")):
        original = getattr(module, name, None)
        if original is not None:
            monkeypatch.setattr(module, name, lambda *args, _make=original: made.append(_make) or _make(*args))

    async def main(exe):
        loop = asyncio.get_running_loop()
        made.clear()
        short = [loop.run_in_executor(exe, pow, 2, number) for number in range(5)]
        long = [loop.run_in_executor(exe, sleep_and_return, 0.2, number) for number in range(2)]
        return await asyncio.wait_for(asyncio.gather(*short, *long), LIMIT_S)

    exe = make()
    exe.submit(pow, 2, 3).result(LIMIT_S)
    assert asyncio.run(main(exe)) == [2**number for number in range(5)] + [0, 1]
    assert len(made) <= 1
