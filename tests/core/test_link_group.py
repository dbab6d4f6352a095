"""The relay's wait for calls to many workers: over real links, without processes."""

from __future__ import annotations

from pympipool._core.calls import FunctionHandle
from pympipool._core.link_group import FOUND_MAX
from support.link_workers import LIMIT_S, LinkWorkers

COUNT = FOUND_MAX + 88


def test_all_channels_with_calls_are_found_in_turns():
    workers = LinkWorkers(COUNT, 32_768, relayed=True)
    channels = workers.channels
    while workers.group.wait(0.0):
        pass  # calls that have ended already
    futures = [workers.submit(FunctionHandle(2, b"of unknown length")) for _ in range(COUNT)]
    found = workers.group.wait(LIMIT_S)
    assert len(found) == FOUND_MAX
    for channel in found:
        workers.answer(channel, workers.take(channel))
    workers.pump()
    futures += [
        workers.submit(FunctionHandle(3, b"of unknown length")) for _ in range(FOUND_MAX)
    ]  # the first ones again
    found = workers.group.wait(LIMIT_S)
    assert set(channels) - set(found) <= set(channels[:FOUND_MAX]), "others have waited for a second turn of the first"
    while workers.dispatcher.unfinished_count:
        for channel in found:
            for call in workers.take_all(channel):
                workers.answer(channel, call)
        workers.pump()
        found = workers.group.wait(0.0)
    assert [future.result(LIMIT_S) for future in futures] == [None] * (COUNT + FOUND_MAX)
