"""How hosts reach each other, by the addresses over which they have reached the master."""

from types import SimpleNamespace

from pympipool.backends.agent.placement import addresses


def host(address, master_address):
    return SimpleNamespace(address=address, master_address=master_address)


def test_host_of_the_master_gets_its_outer_address():
    far = host("10.0.0.2", "10.0.0.1")
    for local in (host("127.0.0.1", "127.0.0.1"), host("", "")):
        assert addresses([local, far]) == ["10.0.0.1", "10.0.0.2"]
    assert addresses([host("127.0.0.1", "127.0.0.1")]) == ["127.0.0.1"]
