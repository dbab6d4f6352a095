from __future__ import annotations

import pytest

from support.pickling import OtherProcess


@pytest.fixture(scope="module")
def other_process():
    process = OtherProcess()
    yield process
    process.close()
