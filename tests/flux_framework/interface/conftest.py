"""The tests of the interface again, with workers that flux starts."""

from __future__ import annotations

import pytest

from pympipool.backends.registry import BACKENDS
from support.loopback_tcp import FluxOverTcp

PLACES = ["one broker", "two brokers", "other hosts"]


@pytest.fixture(scope="module", params=PLACES)
def where_workers_are(request):
    """Parameters of executors whose workers are there."""
    with pytest.MonkeyPatch.context() as patch:
        name = "running_one_broker" if request.param == "one broker" else "running_two_brokers"
        instance = request.getfixturevalue(name)
        patch.setenv("FLUX_URI", instance.uri)
        patch.setitem(BACKENDS, "flux over tcp", FluxOverTcp)
        yield {"backend": "flux over tcp" if request.param == "other hosts" else "flux"}
        assert instance.wait_until_empty() == []


@pytest.fixture(scope="module")
def block_allocation():
    """`test_flux` has the calls that get a job each."""
    return True
